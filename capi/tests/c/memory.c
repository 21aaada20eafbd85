/* Proves that what pith_plan says is what is taken. In processes of their own, each with a hard limit by the
 * system (as `ulimit -v` sets it), a model is opened and a session of one thread generates until its context is full:
 *
 * - address space of what the process had before, the mapped file and the planned total, and 5 % on top;
 *   and likewise its private writable memory alone (RLIMIT_DATA): that succeeds;
 * - max_memory one byte below the total: PITH_MEMORY before any work, with both numbers;
 * - any limit below: PITH_MEMORY, never a dead process.
 *
 * Prints the plan beside what became resident.
 *
 *   memory MODEL.gguf [N_CTX] */
#include "check.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *path;
static uint32_t n_ctx;

/* ---- What the system counts ---- */

/* A line of /proc/self/status, in bytes. Allocates nothing: it is asked where there is no memory left. */
static uint64_t in_status(const char *name) {
    static char text[8192];
    const int file = open("/proc/self/status", O_RDONLY);
    const ssize_t n = read(file, text, sizeof text - 1);
    close(file);
    if (n <= 0) fatal("/proc/self/status");
    text[n] = 0;
    const char *line = strstr(text, name);
    return line == NULL ? 0 : strtoull(line + strlen(name) + 1, NULL, 10) << 10;
}

/* ---- One life, in a process of its own ---- */

/* What is tried. */
typedef struct {
    int resource;        /* RLIMIT_AS or RLIMIT_DATA */
    uint64_t more;       /* the limit: what the process has, and as much more; 0 is none */
    uint64_t max_memory; /* of the session; 0 is none */
    int plans_only;
} Trial;

/* What came of it. */
typedef struct {
    int32_t signal; /* that ended the process; 0 for none */
    pith_status status;
    uint64_t needed, limit;
    pith_memory planned;
    uint64_t anonymous, grown; /* resident, and address space, beside what there was before */
    uint32_t n_tokens;
} Outcome;

static uint64_t resident_before, most_resident;

static int32_t on_token(void *user, uint32_t id, const char *text, size_t n_bytes) {
    uint32_t *n_tokens = user;
    (void)id, (void)text, (void)n_bytes;
    if (++*n_tokens % 64 == 0) {
        const uint64_t now = in_status("RssAnon");
        most_resident = now > most_resident ? now : most_resident;
    }
    return 0;
}

static pith_status generate(pith_session *session, uint32_t *n_tokens) {
    pith_generation generation = PITH_GENERATION_INIT;
    pith_generated generated = PITH_GENERATED_INIT;
    pith_sampling sampling = PITH_SAMPLING_INIT;
    uint32_t prompt[200];
    for (uint32_t i = 0; i < 200; i++) prompt[i] = i + 3; /* more than a step: all of the buffers is used */
    /* Some tokens are drawn from the whole vocabulary, which wants the most memory. */
    sampling.top_k = 0;
    generation.flags = PITH_IGNORE_EOS;
    generation.sampling = &sampling;
    const pith_status status =
        pith_generate(session, 0, prompt, 200, &generation, on_token, n_tokens, &generated, &error);
    if (status == PITH_OK) CHECK(generated.finish == PITH_FINISH_FULL && generated.n_tokens == *n_tokens);
    return status;
}

static void live(const Trial *trial, Outcome *outcome) {
    pith_model *model = NULL;
    pith_session *session = NULL;
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    options.n_ctx = n_ctx;
    options.n_threads = 1;
    resident_before = in_status("RssAnon");
    const uint64_t size_before = in_status("VmSize"), data_before = in_status("VmData");
    if (trial->more > 0) {
        const uint64_t had = trial->resource == (int)RLIMIT_AS ? size_before : data_before;
        const struct rlimit limit = {had + trial->more, had + trial->more};
        if (setrlimit(trial->resource, &limit) != 0) fatal("setrlimit");
    }
    outcome->planned.struct_size = sizeof outcome->planned;
    pith_status status = BEARABLE(pith_model_open(path, NULL, &model, &error));
    if (status == PITH_OK) status = BEARABLE(pith_plan(model, &options, &outcome->planned, &error));
    if (status == PITH_OK && !trial->plans_only) {
        const uint64_t before = in_status("VmSize");
        options.max_memory = trial->max_memory;
        status = BEARABLE(pith_session_new(model, &options, &session, &error));
        outcome->grown = in_status("VmSize") - before;
        if (status == PITH_OK) status = generate(session, &outcome->n_tokens);
        const uint64_t now = in_status("RssAnon");
        outcome->anonymous = (now > most_resident ? now : most_resident) - resident_before;
    }
    outcome->status = status;
    outcome->needed = status == PITH_OK ? 0 : error.needed;
    outcome->limit = status == PITH_OK ? 0 : error.limit;
    pith_session_free(session);
    pith_model_free(model);
}

static Outcome try_it(int resource, uint64_t more, uint64_t max_memory, int plans_only) {
    const Trial trial = {resource, more, max_memory, plans_only};
    Outcome outcome;
    int ends[2], status;
    memset(&outcome, 0, sizeof outcome);
    fflush(NULL);
    if (pipe(ends) != 0) fatal("pipe");
    const pid_t child = fork();
    if (child < 0) fatal("fork");
    if (child == 0) {
        n_failed = 0;
        live(&trial, &outcome);
        const ssize_t written = write(ends[1], &outcome, sizeof outcome);
        _exit(n_failed > 0 || written != sizeof outcome);
    }
    close(ends[1]);
    const ssize_t n = read(ends[0], &outcome, sizeof outcome);
    close(ends[0]);
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0 && n == sizeof outcome);
    outcome.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return outcome;
}

/* ---- The promises ---- */

static double mib(uint64_t bytes) {
    return (double)bytes / (1 << 20);
}

/* Never a dead process; refused where it is clearly too little, and from some limit on all goes well. */
static void limits_below(int resource, const char *name, uint64_t needed) {
    int n_refused = 0, n_worked = 0;
    for (int i = 1; i <= 24; i++) {
        const uint64_t more = needed / 24 * (uint64_t)i;
        const Outcome outcome = try_it(resource, more, 0, 0);
        CHECK(outcome.signal == 0);
        CHECK(outcome.status == PITH_MEMORY || outcome.status == PITH_OK);
        if (more + needed / 20 + (2 << 20) < needed) CHECK(outcome.status != PITH_OK);
        n_refused += outcome.status != PITH_OK;
        n_worked += outcome.status == PITH_OK;
    }
    printf("memory: 24 limits on %s up to what is planned: %d refused, %d worked\n", name, n_refused, n_worked);
}

int main(int argc, char **argv) {
    if (argc < 2) fatal("wanted a model");
    path = argv[1];
    n_ctx = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    const Outcome plan = try_it((int)RLIMIT_AS, 0, 0, 1);
    CHECK(plan.status == PITH_OK);
    if (n_failed > 0) return report("memory");
    const uint64_t total = plan.planned.total, all = plan.planned.file_backed + total;
    printf("memory: planned %.3f MiB (model %.3f, context %.3f, buffers %.3f, scratch %.3f), mapped %.3f MiB\n",
           mib(total), mib(plan.planned.model), mib(plan.planned.kv), mib(plan.planned.buffers),
           mib(plan.planned.scratch), mib(plan.planned.file_backed));

    const Outcome free_of_limits = try_it((int)RLIMIT_AS, 0, total, 0);
    CHECK(free_of_limits.status == PITH_OK);
    printf("memory: %u tokens made %.3f MiB resident beside the file: %.1f %% of the plan\n",
           (unsigned)free_of_limits.n_tokens, mib(free_of_limits.anonymous),
           100.0 * (double)free_of_limits.anonymous / (double)total);
    CHECK(free_of_limits.anonymous <= total + total / 20);

    CHECK(try_it((int)RLIMIT_AS, all + all / 20, total, 0).status == PITH_OK);
    CHECK(try_it((int)RLIMIT_DATA, total + total / 20, total, 0).status == PITH_OK);

    const Outcome refused = try_it((int)RLIMIT_AS, 0, total - 1, 0);
    CHECK(refused.status == PITH_MEMORY && refused.needed == total && refused.limit == total - 1);
    CHECK(refused.grown == 0);

    limits_below((int)RLIMIT_AS, "address space", all);
    limits_below((int)RLIMIT_DATA, "writable memory", total);
    return report("memory");
}
