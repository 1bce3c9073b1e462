"""Carbon intensities: whose, of which year, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.host.codecarbon import quiet_codecarbon
from pytest_carbon.host.electricity import GOOGLE_YEAR, GRIDS, intensity
from pytest_carbon.host.machine import version_of
from pytest_carbon.records import CarbonIntensity, UsageProblem

CODECARBON = f"(codecarbon {version_of('codecarbon')})"


def test_nothing_given_is_the_world() -> None:
    """codecarbon's world average, and where it has it from."""
    assert intensity() == CarbonIntensity(
        475.0, 1.0, f"world average, IEA Global Energy & CO2 Status Report 2019 {CODECARBON}", 2018
    )


@pytest.mark.parametrize(
    ("given", "g_per_kwh", "source", "year"),
    [
        ({"country": "FRA"}, 56.039, "France, Our World in Data/Ember", 2023),
        ({"country": " usa "}, 369.473, "United States, Our World in Data/Ember", 2023),
        ({"country": "ABW"}, 561.224, "Aruba, Our World in Data/Ember", 2022),
        # 394.769 lb/MWh
        ({"country": "USA", "region": "California"}, 179.0642, "California, United States, EPA eGRID2023", 2023),
        ({"country": "USA", "region": "ca"}, 179.0642, "California, United States, EPA eGRID2023", 2023),
        ({"country": "USA", "region": "new  york"}, 211.6535, "New York, United States, EPA eGRID2023", 2023),
        # 0.4% gas at 743.8 and 0.1% oil at 816.7 g/kWh, as codecarbon counts a mix
        ({"country": "CAN", "region": "Quebec"}, 3.93736, "Quebec, Canada, energy mix × fuel factors", 2023),
        ({"country": "CHN", "region": "Inner Mongolia"}, 647.9, "Inner Mongolia, China, MEE/NBS, CO2 only", 2023),
        ({"country": "CHN", "region": "CN-NM"}, 647.9, "Inner Mongolia, China, MEE/NBS, CO2 only", 2023),
        ({"country": "NOR", "region": "no4"}, 51.7, "NO4, Norway, ENTSO-E bidding zone", 2025),
        ({"cloud": "gcp/us-central1"}, 430.0, "gcp/us-central1, Google Cloud", 2023),
        ({"cloud": "GCP/me-central1"}, 575.0, "gcp/me-central1, Google Cloud", 2023),
        (
            {"cloud": "aws/us-west-2"},
            165.5444,
            "aws/us-west-2, the grid of Oregon, United States, EPA eGRID2023",
            2023,
        ),
        (
            {"cloud": "azure/francecentral"},
            56.039,
            "azure/francecentral, the grid of France, Our World in Data/Ember",
            2023,
        ),
    ],
)
def test_figures_with_source_and_year(given: dict[str, str], g_per_kwh: float, source: str, year: int) -> None:
    """As codecarbon computes them, from the figure that was asked for and no other."""
    figure = intensity(**given)  # type: ignore[arg-type]
    assert figure == CarbonIntensity(pytest.approx(g_per_kwh, rel=1e-5), 1.0, f"{source} {CODECARBON}", year)


def test_every_country_has_a_figure_and_a_year() -> None:
    """None of codecarbon's countries falls back to the world."""
    with quiet_codecarbon():
        from codecarbon.input import DataSource

        countries = DataSource().get_global_energy_mix_data()
    assert len(countries) > 200
    for code, facts in countries.items():
        figure = intensity(code)
        assert figure.g_per_kwh == pytest.approx(facts["carbon_intensity"])
        assert figure.year is not None
        assert facts["country_name"] in figure.source


@pytest.mark.parametrize("cloud", [f"{provider}/{region}" for provider in GRIDS for region in GRIDS[provider]])
def test_every_cloud_region_stands_in_a_grid(cloud: str) -> None:
    """AWS and Azure publish no intensities: each region leads to a figure that codecarbon has."""
    figure = intensity(cloud=cloud)
    assert figure.g_per_kwh > 0
    assert figure.source.startswith(f"{cloud}, the grid of ")
    assert figure.year is not None


def test_googles_regions_are_those_of_one_year() -> None:
    """A sample of Google's table of that year: when codecarbon's is renewed, the year must be too."""
    published = {"africa-south1": 646, "europe-north1": 46, "europe-west9": 34, "us-east1": 560, "us-west1": 94}
    assert GOOGLE_YEAR == 2023
    assert {region: intensity(cloud=f"gcp/{region}").g_per_kwh for region in published} == published


def test_a_figure_given_outright_is_taken_as_it_is() -> None:
    """No data is read for it, and it has no year."""
    assert intensity(g_per_kwh=20, pue=1.2) == CarbonIntensity(20.0, 1.2, "given outright", None)
    assert intensity(g_per_kwh=0).g_per_kwh == 0


@given(
    st.floats(min_value=0, max_value=1e9),
    st.floats(min_value=0, max_value=2000),
    st.floats(min_value=1, max_value=3),
)
def test_grams_are_joules_times_pue_times_intensity(energy_j: float, g_per_kwh: float, pue: float) -> None:
    """A kWh is 3.6 MJ."""
    expected_g = energy_j / 3_600_000 * g_per_kwh * pue
    assert intensity(g_per_kwh=g_per_kwh, pue=pue).emissions_g(energy_j) == pytest.approx(expected_g)


COUNTRIES = (
    "Allowed: the ISO 3166 alpha-3 codes of 213 countries, such as DEU, FRA, IND, USA; or give --carbon-intensity."
)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"country": "FR"},
            f"--carbon-country=FR: there is no figure for it. Did you mean FRA (France)? {COUNTRIES}",
        ),
        (
            {"country": "germany"},
            f"--carbon-country=germany: there is no figure for it. Did you mean DEU (Germany)? {COUNTRIES}",
        ),
        (
            {"country": "Germny"},
            f"--carbon-country=Germny: there is no figure for it. Did you mean DEU (Germany)? {COUNTRIES}",
        ),
        ({"country": "XQZ"}, f"--carbon-country=XQZ: there is no figure for it. {COUNTRIES}"),
        ({"country": "ATA"}, f"--carbon-country=ATA: there is no figure for it. {COUNTRIES}"),
        (
            {"country": "FRA", "region": "paris"},
            "--carbon-region=paris: there are figures for regions of USA, CAN, CHN, SWE, NOR, FIN, not of FRA. "
            "Leave it out.",
        ),
        (
            {"country": "FIN", "region": "Lapland"},
            "--carbon-region=Lapland: Finland has no such region. Allowed: FI.",
        ),
        ({"region": "CA"}, "--carbon-region=CA: give its country as well, such as --carbon-country=USA."),
        (
            {"cloud": "us-west-2"},
            "--carbon-cloud=us-west-2: write PROVIDER/REGION, such as aws/us-west-2. Providers: aws, azure, gcp.",
        ),
        (
            {"cloud": "ibm/eu-de"},
            "--carbon-cloud=ibm/eu-de: write PROVIDER/REGION, such as aws/us-west-2. Providers: aws, azure, gcp.",
        ),
        (
            {"cloud": "aws/us-west-2", "country": "USA"},
            "--carbon-country and --carbon-cloud each say what the electricity emits: give one of them.",
        ),
        (
            {"g_per_kwh": 10.0, "cloud": "aws/us-west-2"},
            "--carbon-cloud and --carbon-intensity each say what the electricity emits: give one of them.",
        ),
        ({"g_per_kwh": -1.0}, "--carbon-intensity=-1: gCO2e per kWh, 0 or more."),
        ({"g_per_kwh": math.nan}, "--carbon-intensity=nan: gCO2e per kWh, 0 or more."),
        ({"g_per_kwh": math.inf}, "--carbon-intensity=inf: gCO2e per kWh, 0 or more."),
        *(
            (
                {"pue": pue},
                f"--carbon-pue={pue:g}: the power usage effectiveness of a facility is 1.0 or more (1.0: no overhead).",
            )
            for pue in (0.9, -1.0, math.nan, math.inf)
        ),
    ],
)
def test_what_cannot_be_used_is_refused(given: dict[str, object], text: str) -> None:
    """The value, what is allowed, and what was probably meant: never another place's figure."""
    with pytest.raises(UsageProblem) as caught:
        intensity(**given)  # type: ignore[arg-type]
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"country": "USA", "region": "californa"}, ["Did you mean california?", "Allowed: alabama, ", ", wyoming."]),
        ({"country": "CAN", "region": "quebek"}, ["Did you mean quebec?", "Allowed: british columbia, "]),
        ({"country": "CHN", "region": "bejing"}, ["Did you mean beijing?"]),
        ({"cloud": "aws/us-west-9"}, ["Did you mean aws/us-west-2?", "Known: af-south-1, ", ", us-west-2."]),
        ({"cloud": "gcp/us-central"}, ["Did you mean gcp/us-central1?"]),
        ({"country": "USA", "region": "usa"}, ["United States has no such region"]),
        ({"country": "USA", "region": "_source"}, ["United States has no such region"]),
    ],
)
def test_near_misses_are_named(given: dict[str, str], parts: list[str]) -> None:
    """With everything that would do."""
    with pytest.raises(UsageProblem) as caught:
        intensity(**given)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value)
