"""Grams of CO2 equivalent per kWh of electricity, from codecarbon's data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pytest_carbon.host.codecarbon import quiet_codecarbon
from pytest_carbon.host.machine import version_of
from pytest_carbon.records import CarbonIntensity, UsageProblem
from pytest_carbon.text import closest, did_you_mean

WORLD_SOURCES = {
    "https://www.iea.org/reports/global-energy-co2-status-report-2019/emissions": (
        "IEA Global Energy & CO2 Status Report 2019",
        2018,
    )
}
"""The name of codecarbon's source of the world average, and the year of the figure."""

GOOGLE_YEAR = 2023
"""codecarbon's table of cloud regions has no year; its figures are those of 2023.csv in
https://github.com/GoogleCloudPlatform/region-carbon-info."""

REGIONAL_COUNTRIES = ("USA", "CAN", "CHN", "SWE", "NOR", "FIN")

# AWS and Azure publish the places of their regions, not their emissions: the grid's figure stands for it.
_GRIDS = files("pytest_carbon.host").joinpath("grids.csv").read_text("utf-8").splitlines()[1:]
GRIDS: Mapping[str, Mapping[str, str]] = {
    provider: {region: grid for of, region, grid in (row.split(",") for row in _GRIDS) if of == provider}
    for provider in ("aws", "azure")
}
"""Provider → region → ``COUNTRY`` or ``COUNTRY/REGION``."""


def intensity(
    country: str | None = None,
    region: str | None = None,
    cloud: str | None = None,
    g_per_kwh: float | None = None,
    pue: float = 1.0,
) -> CarbonIntensity:
    """Return the carbon intensity of the electricity; by default the world average.

    ``country`` is ISO 3166 alpha-3, ``region`` a part of it (``california``, ``CA``, a bidding zone ``SE3``), ``cloud``
    is ``aws/us-west-2``. Raises :class:`UsageProblem` if one does not exist, or contradicts another.
    """
    if not (math.isfinite(pue) and pue >= 1):
        raise UsageProblem(
            f"--carbon-pue={pue:g}: the power usage effectiveness of a facility is 1.0 or more (1.0: no overhead)."
        )
    given = {"--carbon-country": country, "--carbon-cloud": cloud, "--carbon-intensity": g_per_kwh}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageProblem(f"{' and '.join(names)} each say what the electricity emits: give one of them.")
    if region is not None and country is None:
        raise UsageProblem(f"--carbon-region={region}: give its country as well, such as --carbon-country=USA.")
    if g_per_kwh is not None:
        if not (math.isfinite(g_per_kwh) and g_per_kwh >= 0):
            raise UsageProblem(f"--carbon-intensity={g_per_kwh:g}: gCO2e per kWh, 0 or more.")
        return CarbonIntensity(float(g_per_kwh), pue, "given outright", None)
    with quiet_codecarbon():
        data = _Data()
        if country is not None:
            figure = data.place(country, region)
        else:
            figure = data.world() if cloud is None else data.cloud(cloud)
    source = f"{figure.source} (codecarbon {version_of('codecarbon')})"
    return CarbonIntensity(figure.g_per_kwh, pue, source, figure.year)


@dataclass(frozen=True, slots=True)
class _Figure:
    g_per_kwh: float
    source: str
    year: int | None


class _Data:
    """Read codecarbon's tables, without its silent fallbacks."""

    def __init__(self) -> None:
        from codecarbon.core.emissions import Emissions
        from codecarbon.input import DataSource

        self._tables = DataSource()  # type: ignore[no-untyped-call]
        self._emissions = Emissions(self._tables)

    def world(self) -> _Figure:
        table = self._tables.get_carbon_intensity_per_source_data()
        address = table["world_average_source"]
        source, year = WORLD_SOURCES.get(address, (address, None))
        return _Figure(float(table["world_average"]), f"world average, {source}", year)

    def place(self, country: str, region: str | None) -> _Figure:
        from codecarbon.core.units import Energy
        from codecarbon.external.geography import GeoMetadata

        countries = self._tables.get_global_energy_mix_data()
        code = country.strip().upper()
        if code not in countries:
            raise UsageProblem(_no_country(country, countries))
        name, year = countries[code]["country_name"], int(countries[code]["year"])
        if region is None:
            kg = self._emissions.get_country_emissions(Energy(1.0), GeoMetadata(code))
            return _Figure(round(1000 * kg, 9), f"{name}, Our World in Data/Ember", year)
        regions = self._regions(code)
        if not regions:
            raise UsageProblem(
                f"--carbon-region={region}: there are figures for regions of {', '.join(REGIONAL_COUNTRIES)}, "
                f"not of {code}. Leave it out."
            )
        part = regions.get(" ".join(region.lower().split()))
        if part is None:
            meant = did_you_mean(region, regions)
            allowed = ", ".join(dict.fromkeys(known.key for known in regions.values()))
            raise UsageProblem(f"--carbon-region={region}: {name} has no such region.{meant} Allowed: {allowed}.")
        kg = self._emissions.get_region_emissions(Energy(1.0), GeoMetadata(code, region=part.key))
        return _Figure(round(1000 * kg, 9), f"{part.label}, {name}, {part.source}", part.year)

    def _regions(self, code: str) -> dict[str, _Region]:
        """Map all names of a country's regions, in lower case, to the regions."""
        if code == "USA":
            table = self._tables.get_country_emissions_data("usa")
            about = table["_source"]
            source, year = about["name"].partition(",")[0], int(about["year"])
            states = {k: v for k, v in table.items() if not k.startswith("_") and k != "usa"}
            regions = {name: _Region(name, name.title(), source, year) for name in states}
            return regions | {facts["regionCode"].lower(): regions[name] for name, facts in states.items()}
        if code == "CAN":
            mixes = self._tables.get_country_energy_mix_data("can")
            folder = re.search(r"/(\d{4})/", self._tables.config["can_energy_mix_data_path"])
            named = int(folder[1]) if folder else None
            return {name: _Region(name, name.title(), "energy mix × fuel factors", named) for name in mixes}
        if code == "CHN":
            table = self._tables.get_china_provincial_emissions_data()
            provinces: dict[str, _Region] = {}
            for name, facts in table["data"].items():
                province = _Region(facts["names"][0], facts["description"], "MEE/NBS, CO2 only", int(facts["year"]))
                provinces |= dict.fromkeys((*facts["names"], name.lower()), province)
            return provinces
        zones = self._tables.get_nordic_country_energy_mix_data()["data"]
        prefix = {"SWE": "SE", "NOR": "NO", "FIN": "FI"}.get(code)
        return {
            zone.lower(): _Region(zone, zone, "ENTSO-E bidding zone", int(facts["year"]))
            for zone, facts in zones.items()
            if prefix is not None and zone.startswith(prefix)
        }

    def cloud(self, cloud: str) -> _Figure:
        provider, slash, region = (part.strip().lower() for part in cloud.partition("/"))
        rows = self._tables.get_cloud_emissions_data().to_dict("records")
        # codecarbon spells Doha's region me-cenrtal1
        google = {row["region"].replace("cenrtal", "central"): row for row in rows if row["provider"] == "gcp"}
        known = {"gcp": google, **GRIDS}
        if not slash or provider not in known:
            raise UsageProblem(
                f"--carbon-cloud={cloud}: write PROVIDER/REGION, such as aws/us-west-2. "
                f"Providers: {', '.join(sorted(known))}."
            )
        if region not in known[provider]:
            raise UsageProblem(
                f"--carbon-cloud={cloud}: {provider} has no such region."
                f"{did_you_mean(cloud, [f'{provider}/{name}' for name in known[provider]])}"
                f" Known: {', '.join(sorted(known[provider]))}."
            )
        if provider == "gcp":
            return _Figure(float(google[region]["impact"]), f"gcp/{region}, Google Cloud", GOOGLE_YEAR)
        country, _, part = GRIDS[provider][region].partition("/")
        figure = self.place(country, part or None)
        return _Figure(figure.g_per_kwh, f"{provider}/{region}, the grid of {figure.source}", figure.year)


@dataclass(frozen=True, slots=True)
class _Region:
    key: str
    """As codecarbon wants it."""
    label: str
    source: str
    year: int | None


def _no_country(country: str, countries: Mapping[str, Mapping[str, Any]]) -> str:
    import pycountry

    try:
        code: str | None = pycountry.countries.lookup(country.strip()).alpha_3
    except LookupError:
        by_name = {facts["country_name"]: code for code, facts in countries.items()}
        code = by_name.get(closest(country, by_name) or "") or closest(country, countries)
    meant = f" Did you mean {code} ({countries[code]['country_name']})?" if code and code in countries else ""
    return (
        f"--carbon-country={country}: there is no figure for it.{meant} Allowed: the ISO 3166 alpha-3 codes of"
        f" {len(countries)} countries, such as DEU, FRA, IND, USA; or give --carbon-intensity."
    )
