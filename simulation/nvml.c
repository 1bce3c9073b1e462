/* A simulated NVML: what the real pynvml calls, over a state file that processes share.
 *
 * The model of a GPU. A test commands a power. A command above idle_w is a load: the true power heads to
 * it. When a load ends (a command at or below idle_w after one above it), the true power heads to each of
 * the levels in turn, then to the command; the length of each level is a hash of (seed, gpu, number of the
 * command), uniform in [shortest, longest). The next load ends the sequence. While a context is held,
 * context_w is added to the levels and to the idle power. The true power gets where it heads with a
 * first-order lag (tau_s); the heat adds a second, slow one: it heads to thermal_w under load and to 0
 * otherwise (thermal_tau_s). So power is a sum of constants and exponentials between two commands, and
 * energy has a closed form at any moment. A sinusoid (wander_w) comes on top.
 *
 * The counter samples that energy at ticks, start + phase_s + k period_s, and shows tick k latency_s
 * later, plus a jitter that is uniform in [0, jitter_s) and a hash of (seed, gpu, k): the same in every
 * process. Part-time sampling counts only the power of the first sampled_fraction of each tick, scaled up
 * (the wander is counted whole). A counter that is frozen under load publishes no tick then; it never
 * counts what the load took, or, if it catches up, shows it at the first tick published afterwards.
 *
 * The power sensor has ticks of its own, start + phase_s + k power_period_s, with the counter's latency
 * and jitter. Instant power is the mean of the true power over the first power_sampled_fraction of the
 * newest visible tick. Average power is the mean over the second before it, sampled as the counter does
 * and never frozen.
 *
 * Before its start a GPU has idled for ever, cold and without a context.
 *
 * Shared between processes: writers take a robust mutex, so that one killed in the middle stops nobody;
 * readers take no lock. A change (a command, a context, a freeze) is appended to a ring and counted only
 * when it is complete; `pending` tells readers that one with an earlier time than theirs may be about to
 * appear. A change carries all that follows from it, its levels included: nothing is ever appended for a
 * moment to come, nor taken back.
 *
 * Built twice from this file: as libnvidia-ml.so.1, and as libsimulation.so for the hands of the test,
 * so that controlling a simulation does not put a driver into the controlling process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_GPUS 8
#define MAX_MIG 7
#define MAX_PIDS 64
#define MAX_LEVELS 8
#define RING 16384 /* changes remembered per GPU */
#define MAGIC 0x4c4d564e4d495332ULL
#define EXPORT __attribute__((visibility("default")))

/* --- what NVML defines ------------------------------------------------------------------------- */

typedef int nvmlReturn_t;
enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, UNKNOWN = 999
};
enum { FI_TOTAL_ENERGY = 83, FI_POWER_AVERAGE = 185, FI_POWER_INSTANT = 186, FI_POWER_MIN_LIMIT = 187,
       FI_POWER_MAX_LIMIT = 188, FI_POWER_DEFAULT_LIMIT = 189, FI_POWER_CURRENT_LIMIT = 190 };
enum { TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };

typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long reference_time, violation_time; } Violation;
typedef struct { unsigned version, sensor; int temperature; } Temperature;
typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} Pci;
typedef struct {
    uint32_t field, scope;
    int64_t timestamp_us, latency_us;
    uint32_t type, result;
    union { unsigned ui; unsigned long long ull; } value;
} Field;

/* Every function that can be made to fail; the first entry stands for all of them. */
#define FUNCTIONS(X) \
    X(all) X(nvmlInit) X(nvmlSystemGetDriverVersion) X(nvmlSystemGetNVMLVersion) \
    X(nvmlSystemGetCudaDriverVersion) X(nvmlSystemGetProcessName) X(nvmlDeviceGetCount) X(nvmlDeviceGetHandleByIndex) \
    X(nvmlDeviceGetHandleByUUID) X(nvmlDeviceGetHandleByPciBusId) X(nvmlDeviceGetIndex) \
    X(nvmlDeviceGetMinorNumber) X(nvmlDeviceGetName) X(nvmlDeviceGetUUID) X(nvmlDeviceGetPciInfo) \
    X(nvmlDeviceGetArchitecture) X(nvmlDeviceGetCudaComputeCapability) \
    X(nvmlDeviceGetTotalEnergyConsumption) X(nvmlDeviceGetPowerUsage) X(nvmlDeviceGetFieldValues) \
    X(NVML_FI_DEV_POWER_AVERAGE) X(NVML_FI_DEV_POWER_INSTANT) \
    X(nvmlDeviceGetEnforcedPowerLimit) X(nvmlDeviceGetPowerManagementLimit) \
    X(nvmlDeviceSetPowerManagementLimit) X(nvmlDeviceGetPowerManagementDefaultLimit) \
    X(nvmlDeviceGetPowerManagementLimitConstraints) X(nvmlDeviceGetMemoryInfo) \
    X(nvmlDeviceGetUtilizationRates) X(nvmlDeviceGetTemperature) X(nvmlDeviceGetTemperatureV) \
    X(nvmlDeviceGetComputeMode) X(nvmlDeviceGetPersistenceMode) \
    X(nvmlDeviceGetCurrentClocksEventReasons) X(nvmlDeviceGetCurrentClocksThrottleReasons) \
    X(nvmlDeviceGetViolationStatus) X(nvmlDeviceGetMigMode) X(nvmlDeviceGetMaxMigDeviceCount) \
    X(nvmlDeviceGetMigDeviceHandleByIndex) X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle) \
    X(nvmlDeviceIsMigDeviceHandle) X(nvmlDeviceGetComputeRunningProcesses) \
    X(nvmlDeviceGetGraphicsRunningProcesses) X(nvmlDeviceGetMPSComputeRunningProcesses) \
    X(nvmlDeviceGetC2cModeInfoV)
#define IDENTIFIER(name) F_##name,
enum { FUNCTIONS(IDENTIFIER) F_COUNT };
#define NAME(name) #name,
static const char *const function_names[] = { FUNCTIONS(NAME) };

/* --- the state --------------------------------------------------------------------------------- */

enum { COMPUTE, GRAPHICS, MPS_CLIENTS, KINDS }; /* of processes */
typedef struct { uint32_t pid; char name[64]; } Named;

typedef struct {
    int32_t code;
    int64_t from_ns;
    int64_t spared; /* calls that still succeed */
} Failure;

typedef struct {
    double from_s;   /* since the start */
    double target_w; /* where the true power heads */
    double excess_w; /* the true power above target_w at from_s; 0 without a lag */
} Step;

typedef struct {
    double at_s;        /* since the start */
    double command_w;
    int64_t number;     /* of the command */
    double fell_s;      /* when the last load ended; NaN under load and before the first */
    double frozen_s;    /* since when the counter stands still; NaN: it runs */
    int32_t freezes;    /* RUNS, LOSES or CATCHES_UP: what the counter does under load */
    int32_t context;
    int32_t steps;
    double heat_w;      /* at at_s */
    double true_j;      /* integral of the true power without the wander */
    double sampled_j;   /* the same, as part-time sampling sees it */
    double lost_j;      /* what a frozen counter has not counted, the wander included */
    double commanded_j; /* integral of the command */
    Step step[MAX_LEVELS + 1];
} Change;

enum { RUNS, LOSES, CATCHES_UP };
typedef struct { double watts, shortest_s, longest_s; } Level;

/* The model, fixed once started, and what may change while it runs. */
#define MODEL(X) \
    X(memory_bytes) X(architecture) X(compute_major) X(compute_minor) X(default_limit_w) X(idle_w) \
    X(tau_s) X(period_s) X(phase_s) X(latency_s) X(jitter_s) X(counter_gain) X(power_gain) \
    X(sampled_fraction) X(noise_j) X(wander_w) X(wander_period_s) X(seed) X(c2c) X(thermal_w) \
    X(thermal_tau_s) X(power_period_s) X(power_sampled_fraction) X(context_w) X(freezes)
#define LIVE(X) \
    X(offset_j) X(power_limit_w) X(throttle_reasons) X(temperature_c) X(mig_mode) X(used_bytes) \
    X(read_delay_s) X(thermal_violation_s) X(power_violation_s) X(persistence_mode)
#define MEMBER(name) double name;

typedef struct {
    MODEL(MEMBER)
    LIVE(MEMBER)
    char name[96], uuid[96], bus_id[32];
    char mig_uuid[MAX_MIG][96];
    Failure failures[F_COUNT];
    int32_t process_count[KINDS];
    uint32_t pids[KINDS][MAX_PIDS];
    int32_t pending;
    int32_t may_freeze; /* the counter has been told to freeze, once at least */
    int32_t level_count;
    Level levels[MAX_LEVELS];
    int64_t changes; /* so far; the newest is ring[(changes - 1) % RING] */
    Change ring[RING];
} Gpu;

typedef struct {
    uint64_t magic; /* set last */
    int64_t start_ns;
    int32_t count;
    char driver_version[80];
    pthread_mutex_t lock;
    Failure failures[F_COUNT];
    Named names[MAX_PIDS]; /* of processes that this machine need not have */
    Gpu gpus[MAX_GPUS];
} State;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double seconds(const State *s, int64_t t_ns) { return (double)(t_ns - s->start_ns) * 1e-9; }

static void pause_s(double duration_s)
{
    struct timespec t = { (time_t)duration_s, (long)((duration_s - floor(duration_s)) * 1e9) };
    if (duration_s > 0)
        nanosleep(&t, NULL);
}

static void lock(State *s)
{
    if (pthread_mutex_lock(&s->lock) == EOWNERDEAD) {
        /* Its holder was killed: what it had not counted never happened. */
        for (int i = 0; i < MAX_GPUS; i++)
            __atomic_store_n(&s->gpus[i].pending, 0, __ATOMIC_SEQ_CST);
        pthread_mutex_consistent(&s->lock);
    }
}

/* --- the model --------------------------------------------------------------------------------- */

static double uniform(const Gpu *g, int gpu, int64_t tick, uint64_t stream) /* splitmix64, [0, 1) */
{
    uint64_t z = (uint64_t)g->seed * 0x9e3779b97f4a7c15ULL + (uint64_t)tick * 0xd1342543de82ef95ULL
                 + (uint64_t)gpu * 0x2545f4914f6cdd1dULL + stream * 0x9e6c63d0876a9a63ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1.0p-53;
}

static double normal(const Gpu *g, int gpu, int64_t tick)
{
    double u = 1 - uniform(g, gpu, tick, 1), v = uniform(g, gpu, tick, 2);
    return fmax(-3, fmin(3, sqrt(-2 * log(u)) * cos(2 * M_PI * v)));
}

static double wander_j(const Gpu *g, int gpu, double at_s)
{
    if (g->wander_w == 0)
        return 0;
    double phase = 2 * M_PI * uniform(g, gpu, 0, 3), rate = 2 * M_PI / g->wander_period_s;
    return g->wander_w / rate * (cos(phase) - cos(rate * at_s + phase));
}

static double wander_w(const Gpu *g, int gpu, double at_s)
{
    if (g->wander_w == 0)
        return 0;
    return g->wander_w * sin(2 * M_PI * (at_s / g->wander_period_s + uniform(g, gpu, 0, 3)));
}

/* Part of a power: level_w + excess_w exp(-(t - zero_s) / tau_s); excess_w is 0 where tau_s is. */
typedef struct { double zero_s, level_w, excess_w, tau_s; } Term;

static double term_w(const Term *t, double at_s)
{
    return t->level_w + (t->excess_w != 0 ? t->excess_w * exp(-(at_s - t->zero_s) / t->tau_s) : 0);
}

static double term_j(const Term *t, double from_s, double to_s)
{
    double energy_j = t->level_w * (to_s - from_s);
    if (t->excess_w != 0)
        energy_j += t->excess_w * t->tau_s
                    * (exp(-(from_s - t->zero_s) / t->tau_s) - exp(-(to_s - t->zero_s) / t->tau_s));
    return energy_j;
}

/* The same as part-time sampling sees it: head tick, whole ticks (a geometric series), tail tick. */
static double sampled_term_j(const Gpu *g, const Term *t, double from_s, double to_s)
{
    double fraction = g->sampled_fraction, period = g->period_s, on_s = fraction * period;
    double first = floor((from_s - g->phase_s) / period), last = floor((to_s - g->phase_s) / period);
    double head_s = g->phase_s + first * period, tail_s = g->phase_s + last * period, energy_j = 0;
    if (from_s < head_s + on_s)
        energy_j += term_j(t, from_s, fmin(head_s + on_s, to_s));
    if (last > first) {
        double n = last - first - 1, next_s = head_s + period;
        energy_j += term_j(t, tail_s, fmin(to_s, tail_s + on_s));
        energy_j += n * on_s * t->level_w;
        if (n > 0 && t->excess_w != 0)
            energy_j += t->excess_w * t->tau_s * -expm1(-on_s / t->tau_s)
                        * exp(-(next_s - t->zero_s) / t->tau_s)
                        * expm1(-n * period / t->tau_s) / expm1(-period / t->tau_s);
    }
    return energy_j / fraction;
}

static int loaded(const Gpu *g, const Change *c) { return c->command_w > g->idle_w; }

static Term step_term(const Gpu *g, const Change *c, int i)
{
    return (Term){ c->step[i].from_s, c->step[i].target_w, c->step[i].excess_w, g->tau_s };
}

static Term heat_term(const Gpu *g, const Change *c)
{
    double target_w = loaded(g, c) ? g->thermal_w : 0;
    return (Term){ c->at_s, target_w, c->heat_w - target_w, g->thermal_tau_s };
}

/* The power at a moment of one change, without the wander. */
static double change_w(const Gpu *g, const Change *c, double at_s)
{
    int i = c->steps - 1;
    while (i > 0 && c->step[i].from_s > at_s)
        i--;
    Term step = step_term(g, c, i), heat = heat_term(g, c);
    return term_w(&step, at_s) + term_w(&heat, at_s);
}

/* The energy of one change from its begin (or, where that is later, to its begin: less than 0). */
static double change_j(const Gpu *g, const Change *c, double to_s, int sampled)
{
    double energy_j = 0, sign = 1, from_s = c->at_s;
    if (to_s < from_s) { /* before the start */
        sign = -1;
        from_s = to_s;
        to_s = c->at_s;
    }
    sampled = sampled && g->sampled_fraction < 1;
    for (int i = 0; i < c->steps; i++) {
        double a_s = i > 0 ? c->step[i].from_s : from_s;
        double b_s = i + 1 < c->steps ? fmin(c->step[i + 1].from_s, to_s) : to_s;
        if (b_s <= a_s)
            break;
        Term step = step_term(g, c, i);
        energy_j += sampled ? sampled_term_j(g, &step, a_s, b_s) : term_j(&step, a_s, b_s);
    }
    if (g->thermal_w > 0) {
        Term heat = heat_term(g, c);
        energy_j += sampled ? sampled_term_j(g, &heat, from_s, to_s) : term_j(&heat, from_s, to_s);
    }
    return sign * energy_j;
}

/* Fill in the steps of a change that begins with a true power (without heat and wander). */
static void plan(const Gpu *g, int gpu, Change *c, double power_w)
{
    double from_s = c->at_s, end_s = c->fell_s, extra_w = 0;
    c->steps = 0;
    if (!loaded(g, c)) {
        extra_w = c->context ? g->context_w : 0;
        for (int i = 0; i < g->level_count && !isnan(c->fell_s); i++) {
            const Level *l = &g->levels[i];
            end_s += l->shortest_s + (l->longest_s - l->shortest_s) * uniform(g, gpu, c->number, 4 + i);
            if (end_s > from_s) {
                c->step[c->steps++] = (Step){ from_s, l->watts + extra_w, 0 };
                from_s = end_s;
            }
        }
    }
    c->step[c->steps++] = (Step){ from_s, c->command_w + extra_w, 0 };
    for (int i = 0; i < c->steps && g->tau_s > 0; i++) {
        c->step[i].excess_w = power_w - c->step[i].target_w;
        if (i + 1 < c->steps) {
            Term step = step_term(g, c, i);
            power_w = term_w(&step, c->step[i + 1].from_s);
        }
    }
}

/* The change in force at a moment. False: it is older than the ring remembers. */
static int find(const Gpu *g, double at_s, Change *found)
{
    int64_t patience_ns = 0;
    for (;;) {
        while (__atomic_load_n(&g->pending, __ATOMIC_SEQ_CST)) {
            sched_yield();
            if (patience_ns == 0)
                patience_ns = now_ns() + 100000000; /* its writer may have been killed */
            else if (now_ns() > patience_ns)
                break;
        }
        int64_t n = __atomic_load_n(&g->changes, __ATOMIC_ACQUIRE);
        int64_t oldest = n >= RING ? n - RING + 1 : 0, low = oldest, high = n - 1;
        while (low < high) {
            int64_t middle = (low + high + 1) / 2;
            if (g->ring[middle % RING].at_s <= at_s)
                low = middle;
            else
                high = middle - 1;
        }
        *found = g->ring[low % RING];
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&g->changes, __ATOMIC_ACQUIRE) - oldest < RING)
            return oldest == 0 || found->at_s <= at_s;
    }
}

static double true_j(const Gpu *g, int gpu, double at_s)
{
    Change c;
    if (!find(g, at_s, &c))
        return NAN;
    return c.true_j + change_j(g, &c, at_s, 0) + wander_j(g, gpu, at_s);
}

static double commanded_j(const Gpu *g, double at_s)
{
    Change c;
    return find(g, at_s, &c) ? c.commanded_j + c.command_w * (at_s - c.at_s) : NAN;
}

static double power_w(const Gpu *g, int gpu, double at_s)
{
    Change c;
    return find(g, at_s, &c) ? change_w(g, &c, at_s) + wander_w(g, gpu, at_s) : NAN;
}

static double sampled_j(const Gpu *g, int gpu, double at_s)
{
    Change c;
    return find(g, at_s, &c) ? c.sampled_j + change_j(g, &c, at_s, 1) + wander_j(g, gpu, at_s) : NAN;
}

/* The same without what a frozen counter loses. */
static double counted_j(const Gpu *g, int gpu, double at_s)
{
    Change c;
    if (!find(g, at_s, &c))
        return NAN;
    if (!isnan(c.frozen_s) && c.freezes == LOSES)
        at_s = c.at_s;
    return c.sampled_j + change_j(g, &c, at_s, 1) + wander_j(g, gpu, at_s) - c.lost_j;
}

static double tick_s(const Gpu *g, double period_s, int64_t tick) { return g->phase_s + (double)tick * period_s; }

static double visible_s(const Gpu *g, int gpu, double period_s, int64_t tick)
{
    double late_s = g->jitter_s > 0 ? g->jitter_s * uniform(g, gpu, tick, 0) : 0;
    return tick_s(g, period_s, tick) + g->latency_s + late_s;
}

/* The newest tick that is visible at a moment. */
static int64_t visible_tick(const Gpu *g, int gpu, double period_s, double at_s)
{
    int64_t tick = (int64_t)floor((at_s - g->latency_s - g->phase_s) / period_s);
    while (g->jitter_s > 0 && visible_s(g, gpu, period_s, tick) > at_s)
        tick--;
    return tick;
}

/* The newest tick that was published by a moment: none is while the counter is frozen. */
static int64_t published_tick(const Gpu *g, int gpu, double at_s)
{
    int64_t tick = visible_tick(g, gpu, g->period_s, at_s);
    Change c;
    while (g->may_freeze && find(g, visible_s(g, gpu, g->period_s, tick), &c) && !isnan(c.frozen_s)) {
        int64_t before = visible_tick(g, gpu, g->period_s, c.frozen_s);
        tick = before < tick ? before : tick - 1;
    }
    return tick;
}

static double counter_j(const Gpu *g, int gpu, double at_s)
{
    int64_t tick = published_tick(g, gpu, at_s);
    double energy_j = g->offset_j + g->counter_gain * counted_j(g, gpu, tick_s(g, g->period_s, tick));
    if (g->noise_j > 0)
        energy_j += g->noise_j * normal(g, gpu, tick);
    return isnan(energy_j) ? NAN : fmax(0, energy_j);
}

/* Mean power over the second before the newest visible tick of the sensor, or over as much of it as is
 * remembered. */
static double average_w(const Gpu *g, int gpu, double at_s)
{
    double end_s = tick_s(g, g->power_period_s, visible_tick(g, gpu, g->power_period_s, at_s));
    double start_s = end_s - 1;
    int64_t n = __atomic_load_n(&g->changes, __ATOMIC_ACQUIRE);
    if (n >= RING)
        start_s = fmax(start_s, g->ring[(n - RING + 64) % RING].at_s);
    double mean_w = (sampled_j(g, gpu, end_s) - sampled_j(g, gpu, start_s)) / (end_s - start_s);
    return fmax(0, g->power_gain * mean_w);
}

/* Mean power over the part of the newest visible tick that the sensor looks at. */
static double instant_w(const Gpu *g, int gpu, double at_s)
{
    double period_s = g->power_period_s, on_s = g->power_sampled_fraction * period_s;
    double start_s = tick_s(g, period_s, visible_tick(g, gpu, period_s, at_s) - 1);
    double mean_w = (true_j(g, gpu, start_s + on_s) - true_j(g, gpu, start_s)) / on_s;
    return isnan(mean_w) ? NAN : fmax(0, g->power_gain * mean_w);
}

/* --- the test's hands -------------------------------------------------------------------------- */

static State *map(const char *path, int flags)
{
    int file = open(path, O_RDWR | O_CLOEXEC | flags, 0600);
    if (file < 0 || ((flags & O_CREAT) && ftruncate(file, sizeof(State)) != 0)) {
        if (file >= 0)
            close(file);
        return NULL;
    }
    struct stat about;
    State *s = NULL;
    if (fstat(file, &about) == 0 && about.st_size == sizeof(State))
        s = mmap(NULL, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return s == MAP_FAILED ? NULL : s;
}

EXPORT State *sim_create(const char *path, int count, const char *driver_version)
{
    State *s = count <= MAX_GPUS ? map(path, O_CREAT | O_EXCL) : NULL;
    if (s == NULL)
        return NULL;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&s->lock, &attributes);
    s->count = count;
    snprintf(s->driver_version, sizeof s->driver_version, "%s", driver_version);
    return s;
}

EXPORT State *sim_open(const char *path)
{
    State *s = map(path, 0);
    if (s != NULL && __atomic_load_n(&s->magic, __ATOMIC_ACQUIRE) != MAGIC) {
        munmap(s, sizeof(State));
        return NULL;
    }
    return s;
}

EXPORT void sim_close(State *s) { munmap(s, sizeof(State)); }

EXPORT int64_t sim_start(State *s)
{
    s->start_ns = now_ns();
    for (int i = 0; i < s->count; i++) {
        Gpu *g = &s->gpus[i];
        g->ring[0] = (Change){ .command_w = g->idle_w, .fell_s = NAN, .frozen_s = NAN,
                               .freezes = (int32_t)g->freezes };
        g->may_freeze = g->freezes != RUNS;
        plan(g, i, &g->ring[0], g->idle_w);
        g->changes = 1;
    }
    __atomic_store_n(&s->magic, MAGIC, __ATOMIC_RELEASE);
    return s->start_ns;
}

EXPORT int64_t sim_start_ns(const State *s) { return s->start_ns; }
EXPORT int sim_count(const State *s) { return s->count; }

/* 0: done; -1: there is no such number; -2: it is part of the model, and the model is running. */
EXPORT int sim_set(State *s, int gpu, const char *key, double value)
{
    Gpu *g = &s->gpus[gpu];
#define ASSIGN(name) \
    if (strcmp(key, #name) == 0) { __atomic_store(&g->name, &value, __ATOMIC_SEQ_CST); return 0; }
    LIVE(ASSIGN)
    if (s->magic == MAGIC)
        return -2;
    MODEL(ASSIGN)
    return -1;
}

EXPORT void sim_set_identity(State *s, int gpu, const char *name, const char *uuid, const char *bus_id)
{
    Gpu *g = &s->gpus[gpu];
    snprintf(g->name, sizeof g->name, "%s", name);
    snprintf(g->uuid, sizeof g->uuid, "%s", uuid);
    snprintf(g->bus_id, sizeof g->bus_id, "%s", bus_id);
}

EXPORT void sim_set_mig_uuid(State *s, int gpu, int slot, const char *uuid)
{
    snprintf(s->gpus[gpu].mig_uuid[slot], sizeof s->gpus[gpu].mig_uuid[slot], "%s", uuid);
}

EXPORT void sim_set_levels(State *s, int gpu, int count, const Level *levels)
{
    memcpy(s->gpus[gpu].levels, levels, (size_t)count * sizeof *levels);
    s->gpus[gpu].level_count = count;
}

EXPORT void sim_set_processes(State *s, int gpu, int kind, int count, const uint32_t *pids)
{
    Gpu *g = &s->gpus[gpu];
    memcpy(g->pids[kind], pids, (size_t)count * sizeof *pids);
    __atomic_store_n(&g->process_count[kind], count, __ATOMIC_SEQ_CST);
}

/* False: there is no room for another name. */
EXPORT int sim_name_process(State *s, uint32_t pid, const char *name)
{
    for (int i = 0; i < MAX_PIDS; i++)
        if (s->names[i].pid == pid || s->names[i].pid == 0) {
            snprintf(s->names[i].name, sizeof s->names[i].name, "%s", name);
            __atomic_store_n(&s->names[i].pid, pid, __ATOMIC_SEQ_CST);
            return 1;
        }
    return 0;
}

EXPORT const char *sim_function(int i) { return i < F_COUNT ? function_names[i] : NULL; }

/* gpu -1: the functions that belong to no GPU. False: there is no such function. */
EXPORT int sim_set_failure(State *s, int gpu, const char *function, int code, int64_t spared, int64_t from_ns)
{
    Failure *failures = gpu < 0 ? s->failures : s->gpus[gpu].failures;
    for (int i = 0; i < F_COUNT; i++)
        if (strcmp(function, function_names[i]) == 0) {
            __atomic_store_n(&failures[i].code, 0, __ATOMIC_SEQ_CST);
            failures[i].spared = spared;
            failures[i].from_ns = from_ns;
            __atomic_store_n(&failures[i].code, code, __ATOMIC_SEQ_CST);
            return 1;
        }
    return 0;
}

/* What a change sets. */
enum { POWER, CONTEXT, FREEZES };

/* Set it now (0) or at a moment; answers when that was, or -1: there is a later change. */
EXPORT int64_t sim_change(State *s, int gpu, int what, double value, int64_t at_ns)
{
    Gpu *g = &s->gpus[gpu];
    lock(s);
    __atomic_store_n(&g->pending, 1, __ATOMIC_SEQ_CST);
    int64_t when_ns = at_ns ? at_ns : now_ns();
    const Change *last = &g->ring[(g->changes - 1) % RING];
    double at_s = seconds(s, when_ns);
    double old = what == POWER ? last->command_w : what == CONTEXT ? last->context : last->freezes;
    if (at_s < last->at_s) {
        when_ns = -1;
    } else if (value != old) {
        Change *next = &g->ring[g->changes % RING];
        double counted_j = change_j(g, last, at_s, 1);
        Term heat = heat_term(g, last);
        next->at_s = at_s;
        next->command_w = what == POWER ? value : last->command_w;
        next->number = last->number + (what == POWER);
        next->context = what == CONTEXT ? (int32_t)value : last->context;
        next->freezes = what == FREEZES ? (int32_t)value : last->freezes;
        next->fell_s = loaded(g, next) ? NAN : loaded(g, last) ? at_s : last->fell_s;
        next->frozen_s = !loaded(g, next) || next->freezes == RUNS ? NAN
                         : isnan(last->frozen_s) ? at_s : last->frozen_s;
        next->heat_w = term_w(&heat, at_s);
        next->true_j = last->true_j + change_j(g, last, at_s, 0);
        next->sampled_j = last->sampled_j + counted_j;
        next->lost_j = last->lost_j;
        if (!isnan(last->frozen_s) && last->freezes == LOSES)
            next->lost_j += counted_j + wander_j(g, gpu, at_s) - wander_j(g, gpu, last->at_s);
        next->commanded_j = last->commanded_j + last->command_w * (at_s - last->at_s);
        plan(g, gpu, next, change_w(g, last, at_s) - next->heat_w);
        if (next->freezes != RUNS)
            __atomic_store_n(&g->may_freeze, 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&g->changes, g->changes + 1, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&g->pending, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&s->lock);
    return when_ns;
}

/* kind 0: commanded, 1: true, 2: what the counter shows, 3: the true power, in watts; 4, 5: instant and
 * average power as the driver would report them. NaN: too long ago to be remembered. */
EXPORT double sim_value(const State *s, int gpu, int64_t at_ns, int kind)
{
    const Gpu *g = &s->gpus[gpu];
    double at_s = seconds(s, at_ns ? at_ns : now_ns());
    switch (kind) {
    case 0: return commanded_j(g, at_s);
    case 1: return true_j(g, gpu, at_s);
    case 2: return counter_j(g, gpu, at_s);
    case 3: return power_w(g, gpu, at_s);
    case 4: return instant_w(g, gpu, at_s);
    default: return average_w(g, gpu, at_s);
    }
}

/* The steps of the change in force at a moment, as (seconds since the start, watts); -1: forgotten. */
EXPORT int sim_steps(const State *s, int gpu, int64_t at_ns, double (*steps)[2])
{
    Change c;
    if (!find(&s->gpus[gpu], seconds(s, at_ns ? at_ns : now_ns()), &c))
        return -1;
    for (int i = 0; i < c.steps; i++) {
        steps[i][0] = c.step[i].from_s;
        steps[i][1] = c.step[i].target_w;
    }
    return c.steps;
}

EXPORT double sim_command_w(const State *s, int gpu)
{
    Change c;
    return find(&s->gpus[gpu], INFINITY, &c) ? c.command_w : NAN;
}

/* A reload of the driver: the counter starts again from 0. */
EXPORT void sim_reset_counter(State *s, int gpu, int64_t at_ns)
{
    Gpu *g = &s->gpus[gpu];
    double offset_j = -g->counter_gain * counted_j(g, gpu, seconds(s, at_ns ? at_ns : now_ns()));
    __atomic_store(&g->offset_j, &offset_j, __ATOMIC_SEQ_CST);
}

/* --- NVML -------------------------------------------------------------------------------------- */

typedef struct { int gpu, mig; } Handle; /* mig -1: the whole GPU */
typedef Handle *nvmlDevice_t;

static Handle handles[MAX_GPUS][1 + MAX_MIG];
static State *state;
static int references;

/* The state that this process's NVML shows. An earlier one stays mapped: a thread may be reading it. */
EXPORT int sim_attach(const char *path)
{
    State *s = path ? sim_open(path) : NULL;
    __atomic_store_n(&state, s, __ATOMIC_SEQ_CST);
    return s != NULL;
}

static nvmlReturn_t failing(Failure *f)
{
    int32_t code = __atomic_load_n(&f->code, __ATOMIC_SEQ_CST);
    if (code == 0 || (f->from_ns && now_ns() < f->from_ns))
        return SUCCESS;
    if (__atomic_load_n(&f->spared, __ATOMIC_SEQ_CST) > 0
        && __atomic_fetch_sub(&f->spared, 1, __ATOMIC_SEQ_CST) > 0)
        return SUCCESS;
    return code;
}

static nvmlReturn_t enter(int function)
{
    if (__atomic_load_n(&references, __ATOMIC_SEQ_CST) == 0 || state == NULL)
        return UNINITIALIZED;
    nvmlReturn_t result = failing(&state->failures[F_all]);
    return result ? result : failing(&state->failures[function]);
}

static nvmlReturn_t enter_gpu(int function, int gpu)
{
    nvmlReturn_t result = enter(function);
    if (result == SUCCESS && (gpu < 0 || gpu >= state->count))
        result = INVALID_ARGUMENT;
    if (result == SUCCESS)
        result = failing(&state->gpus[gpu].failures[F_all]);
    if (result == SUCCESS)
        result = failing(&state->gpus[gpu].failures[function]);
    return result;
}

static nvmlReturn_t give(int gpu, int mig, nvmlDevice_t *device)
{
    Handle *handle = &handles[gpu][1 + mig];
    *handle = (Handle){ gpu, mig };
    *device = handle;
    return SUCCESS;
}

#define TRY(expression) do { nvmlReturn_t result_ = (expression); if (result_) return result_; } while (0)
/* A function of a whole GPU; those that MIG devices have too say so. */
#define ANY_DEVICE(function) \
    if (device == NULL) return INVALID_ARGUMENT; \
    TRY(enter_gpu(F_##function, device->gpu)); \
    Gpu *g = &state->gpus[device->gpu]; (void)g
#define DEVICE(function) ANY_DEVICE(function); if (device->mig >= 0) return NOT_SUPPORTED
#define COPY(text, buffer, size) \
    do { if (strlen(text) >= (size)) return INSUFFICIENT_SIZE; strcpy(buffer, text); } while (0)

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    if (state == NULL && !sim_attach(getenv("NVIDIA_SIMULATION")))
        return DRIVER_NOT_LOADED;
    TRY(failing(&state->failures[F_nvmlInit]));
    __atomic_fetch_add(&references, 1, __ATOMIC_SEQ_CST);
    return SUCCESS;
}
EXPORT nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }

EXPORT nvmlReturn_t nvmlShutdown(void)
{
    if (__atomic_load_n(&references, __ATOMIC_SEQ_CST) == 0)
        return UNINITIALIZED;
    __atomic_fetch_sub(&references, 1, __ATOMIC_SEQ_CST);
    return SUCCESS;
}

EXPORT int sim_references(void) { return __atomic_load_n(&references, __ATOMIC_SEQ_CST); }

EXPORT const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const words[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power",
        "Driver Not Loaded", "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found",
        "Function Not Found", "Corrupted infoROM", "GPU is lost", "GPU requires reset",
        "The operating system has blocked the request", "Driver/library version mismatch", "In Use",
        "Insufficient Memory", "No data",
    };
    return result >= 0 && result < (int)(sizeof words / sizeof *words) ? words[result] : "Unknown Error";
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    TRY(enter(F_nvmlSystemGetDriverVersion));
    COPY(state->driver_version, version, length);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    TRY(enter(F_nvmlSystemGetNVMLVersion));
    COPY("13.simulated", version, length);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    TRY(enter(F_nvmlSystemGetCudaDriverVersion));
    *version = 13000;
    return SUCCESS;
}
EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    return nvmlSystemGetCudaDriverVersion(version);
}

/* The program of a process that this one can see. */
EXPORT nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length)
{
    TRY(enter(F_nvmlSystemGetProcessName));
    for (int i = 0; i < MAX_PIDS; i++)
        if (pid != 0 && state->names[i].pid == pid) {
            COPY(state->names[i].name, name, length);
            return SUCCESS;
        }
    char path[64], program[1024] = "";
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return NOT_FOUND;
    size_t count = fread(program, 1, sizeof program - 1, file);
    fclose(file);
    program[count] = 0;
    COPY(program, name, length);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    TRY(enter(F_nvmlDeviceGetCount));
    *count = (unsigned)state->count;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    TRY(enter_gpu(F_nvmlDeviceGetHandleByIndex, (int)index));
    return give((int)index, -1, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    TRY(enter(F_nvmlDeviceGetHandleByUUID));
    for (int i = 0; i < state->count; i++) {
        int mig = -2;
        if (strcmp(uuid, state->gpus[i].uuid) == 0)
            mig = -1;
        for (int j = 0; j < MAX_MIG; j++)
            if (uuid[0] && strcmp(uuid, state->gpus[i].mig_uuid[j]) == 0)
                mig = j;
        if (mig > -2) {
            TRY(enter_gpu(F_nvmlDeviceGetHandleByUUID, i));
            return give(i, mig, device);
        }
    }
    return NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    TRY(enter(F_nvmlDeviceGetHandleByPciBusId));
    for (int i = 0; i < state->count; i++)
        if (strcasecmp(bus_id, state->gpus[i].bus_id) == 0) {
            TRY(enter_gpu(F_nvmlDeviceGetHandleByPciBusId, i));
            return give(i, -1, device);
        }
    return NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index)
{
    ANY_DEVICE(nvmlDeviceGetIndex);
    *index = (unsigned)(device->mig >= 0 ? device->mig : device->gpu);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *number)
{
    DEVICE(nvmlDeviceGetMinorNumber);
    *number = (unsigned)device->gpu;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length)
{
    ANY_DEVICE(nvmlDeviceGetName);
    COPY(g->name, name, length);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length)
{
    ANY_DEVICE(nvmlDeviceGetUUID);
    COPY(device->mig >= 0 ? g->mig_uuid[device->mig] : g->uuid, uuid, length);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, Pci *pci)
{
    DEVICE(nvmlDeviceGetPciInfo);
    memset(pci, 0, sizeof *pci);
    if (sscanf(g->bus_id, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device) != 3)
        return UNKNOWN;
    snprintf(pci->bus_id, sizeof pci->bus_id, "%s", g->bus_id);
    snprintf(pci->bus_id_legacy, sizeof pci->bus_id_legacy, "%04x:%02x:%02x.0", pci->domain & 0xffff,
             pci->bus & 0xff, pci->device & 0xff);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned *architecture)
{
    DEVICE(nvmlDeviceGetArchitecture);
    *architecture = (unsigned)g->architecture;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    DEVICE(nvmlDeviceGetCudaComputeCapability);
    *major = (int)g->compute_major;
    *minor = (int)g->compute_minor;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy_mj)
{
    DEVICE(nvmlDeviceGetTotalEnergyConsumption);
    pause_s(g->read_delay_s / 2); /* the value is that of the middle of a slow read */
    double energy_j = counter_j(g, device->gpu, seconds(state, now_ns()));
    pause_s(g->read_delay_s / 2);
    if (isnan(energy_j))
        return UNKNOWN; /* more commands since the last tick than the ring remembers */
    *energy_mj = (unsigned long long)(energy_j * 1e3);
    return SUCCESS;
}

/* A failure where there were more commands than the ring remembers. */
static nvmlReturn_t report(double power_w, unsigned *power_mw)
{
    if (isnan(power_w))
        return UNKNOWN;
    *power_mw = (unsigned)lround(1e3 * power_w);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *power_mw)
{
    DEVICE(nvmlDeviceGetPowerUsage);
    return report(average_w(g, device->gpu, seconds(state, now_ns())), power_mw);
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, Field *fields)
{
    DEVICE(nvmlDeviceGetFieldValues);
    for (int i = 0; i < count; i++) {
        Field *f = &fields[i];
        f->timestamp_us = now_ns() / 1000;
        f->latency_us = 0;
        f->type = TYPE_UNSIGNED_INT;
        f->result = SUCCESS;
        switch (f->field) {
        case FI_TOTAL_ENERGY:
            f->type = TYPE_UNSIGNED_LONG_LONG;
            f->result = (uint32_t)nvmlDeviceGetTotalEnergyConsumption(device, &f->value.ull);
            break;
        case FI_POWER_AVERAGE:
            f->result = (uint32_t)enter_gpu(F_NVML_FI_DEV_POWER_AVERAGE, device->gpu);
            if (f->result == SUCCESS)
                f->result = report(average_w(g, device->gpu, seconds(state, now_ns())), &f->value.ui);
            break;
        case FI_POWER_INSTANT:
            f->result = (uint32_t)enter_gpu(F_NVML_FI_DEV_POWER_INSTANT, device->gpu);
            if (f->result == SUCCESS)
                f->result = report(instant_w(g, device->gpu, seconds(state, now_ns())), &f->value.ui);
            break;
        case FI_POWER_MIN_LIMIT: f->value.ui = 100000; break;
        case FI_POWER_MAX_LIMIT:
        case FI_POWER_DEFAULT_LIMIT: f->value.ui = (unsigned)(1e3 * g->default_limit_w); break;
        case FI_POWER_CURRENT_LIMIT: f->value.ui = (unsigned)(1e3 * g->power_limit_w); break;
        default: f->result = NOT_SUPPORTED;
        }
    }
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned *limit_mw)
{
    DEVICE(nvmlDeviceGetEnforcedPowerLimit);
    *limit_mw = (unsigned)(1e3 * g->power_limit_w);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned *limit_mw)
{
    DEVICE(nvmlDeviceGetPowerManagementLimit);
    *limit_mw = (unsigned)(1e3 * g->power_limit_w);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned limit_mw)
{
    DEVICE(nvmlDeviceSetPowerManagementLimit);
    g->power_limit_w = limit_mw / 1e3;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned *limit_mw)
{
    DEVICE(nvmlDeviceGetPowerManagementDefaultLimit);
    *limit_mw = (unsigned)(1e3 * g->default_limit_w);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *least_mw,
                                                                unsigned *most_mw)
{
    DEVICE(nvmlDeviceGetPowerManagementLimitConstraints);
    *least_mw = 100000;
    *most_mw = (unsigned)(1e3 * g->default_limit_w);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, Memory *memory)
{
    DEVICE(nvmlDeviceGetMemoryInfo);
    memory->total = (unsigned long long)g->memory_bytes;
    memory->used = (unsigned long long)g->used_bytes;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, Memory2 *memory)
{
    DEVICE(nvmlDeviceGetMemoryInfo);
    memory->total = (unsigned long long)g->memory_bytes;
    memory->reserved = 0;
    memory->used = (unsigned long long)g->used_bytes;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, Utilization *utilization)
{
    DEVICE(nvmlDeviceGetUtilizationRates);
    utilization->gpu = sim_command_w(state, device->gpu) > g->idle_w ? 100 : 0;
    utilization->memory = utilization->gpu / 2;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *temperature_c)
{
    (void)sensor;
    DEVICE(nvmlDeviceGetTemperature);
    *temperature_c = (unsigned)g->temperature_c;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, Temperature *temperature)
{
    DEVICE(nvmlDeviceGetTemperatureV);
    temperature->temperature = (int)g->temperature_c;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, unsigned *mode)
{
    DEVICE(nvmlDeviceGetComputeMode);
    *mode = 0;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned *mode)
{
    DEVICE(nvmlDeviceGetPersistenceMode);
    *mode = (unsigned)g->persistence_mode;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons)
{
    DEVICE(nvmlDeviceGetCurrentClocksEventReasons);
    *reasons = (unsigned long long)g->throttle_reasons;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons)
{
    DEVICE(nvmlDeviceGetCurrentClocksThrottleReasons);
    *reasons = (unsigned long long)g->throttle_reasons;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, unsigned policy, Violation *violation)
{
    DEVICE(nvmlDeviceGetViolationStatus);
    double held_back_s = policy == 0 ? g->power_violation_s : policy == 1 ? g->thermal_violation_s : 0;
    violation->reference_time = (unsigned long long)now_ns() / 1000;
    violation->violation_time = (unsigned long long)(1e9 * held_back_s);
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *next)
{
    DEVICE(nvmlDeviceGetMigMode);
    *current = *next = (unsigned)g->mig_mode;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count)
{
    DEVICE(nvmlDeviceGetMaxMigDeviceCount);
    *count = g->mig_mode != 0 ? MAX_MIG : 0;
    return SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index, nvmlDevice_t *mig)
{
    DEVICE(nvmlDeviceGetMigDeviceHandleByIndex);
    if (index >= MAX_MIG || g->mig_uuid[index][0] == 0)
        return NOT_FOUND;
    return give(device->gpu, (int)index, mig);
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *whole)
{
    ANY_DEVICE(nvmlDeviceGetDeviceHandleFromMigDeviceHandle);
    return device->mig >= 0 ? give(device->gpu, -1, whole) : INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *answer)
{
    ANY_DEVICE(nvmlDeviceIsMigDeviceHandle);
    *answer = device->mig >= 0;
    return SUCCESS;
}

static nvmlReturn_t list(const Gpu *g, int kind, unsigned *room, Process *processes)
{
    unsigned count = (unsigned)__atomic_load_n(&g->process_count[kind], __ATOMIC_SEQ_CST);
    nvmlReturn_t result = *room < count ? INSUFFICIENT_SIZE : SUCCESS;
    for (unsigned i = 0; result == SUCCESS && i < count; i++)
        processes[i] = (Process){ g->pids[kind][i], 512ULL << 20, 0xffffffff, 0xffffffff };
    *room = count;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, Process *out)
{
    DEVICE(nvmlDeviceGetComputeRunningProcesses);
    return list(g, COMPUTE, count, out);
}
EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count, Process *out)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, out);
}

EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned *count, Process *out)
{
    DEVICE(nvmlDeviceGetGraphicsRunningProcesses);
    return list(g, GRAPHICS, count, out);
}
EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned *count, Process *out)
{
    return nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, out);
}

EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                               Process *out)
{
    DEVICE(nvmlDeviceGetMPSComputeRunningProcesses);
    return list(g, MPS_CLIENTS, count, out);
}

EXPORT nvmlReturn_t nvmlDeviceGetC2cModeInfoV(nvmlDevice_t device, unsigned *enabled)
{
    DEVICE(nvmlDeviceGetC2cModeInfoV);
    if (g->c2c == 0)
        return NOT_SUPPORTED;
    *enabled = 1;
    return SUCCESS;
}
