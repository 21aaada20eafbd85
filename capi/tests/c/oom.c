/* Proves that memory that the system refuses is PITH_MEMORY, and what pith asks of the system at all.
 *
 * The linker puts the functions below in the place of malloc and its kin (-Wl,--wrap=malloc,...), for the
 * library as for this file. Over opening, a session, generating, scoring and saving, (a) only the n-th
 * allocation fails, (b) all from the n-th on fail, for every n up to the last: each run ends in PITH_OK or
 * PITH_MEMORY, leaves no block behind, and the next works as ever.
 *
 * Between pith_session_new and pith_session_free nothing is allocated or freed, nothing is written, no
 * environment is read, and with one thread no thread is started.
 *
 *   oom MODEL.gguf STRIDE     every STRIDE-th n; 1 is all */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- What the library asks of the system ---- */

static long n_calls;        /* of malloc and its kin, freeing included */
static long n_allocations;  /* that may fail */
static long n_live;         /* blocks */
static long fail_at = -1;   /* the first that fails */
static int fail_all;        /* and all behind it */
static long n_getenv, n_threads_started, n_writes, n_handlers;

/* Threads of the library allocate too. */
static long add(long *counter, long n) {
    return __atomic_fetch_add(counter, n, __ATOMIC_SEQ_CST);
}

static int refuses(void) {
    add(&n_calls, 1);
    const long i = add(&n_allocations, 1);
    const int refused = fail_at >= 0 && (fail_all ? i >= fail_at : i == fail_at);
    if (refused) errno = ENOMEM;
    return refused;
}

static void *counted(void *block) {
    add(&n_live, block != NULL);
    return block;
}

#define REAL(type, name, parameters) \
    type __real_##name parameters;   \
    type __wrap_##name parameters;   \
    type __wrap_##name parameters

REAL(void *, malloc, (size_t n)) {
    return refuses() ? NULL : counted(__real_malloc(n));
}
REAL(void *, calloc, (size_t n, size_t size)) {
    return refuses() ? NULL : counted(__real_calloc(n, size));
}
REAL(void *, realloc, (void *block, size_t n)) {
    if (refuses()) return NULL;
    return block == NULL ? counted(__real_realloc(block, n)) : __real_realloc(block, n);
}
REAL(int, posix_memalign, (void **block, size_t align, size_t n)) {
    if (refuses()) return ENOMEM;
    const int refused = __real_posix_memalign(block, align, n);
    add(&n_live, refused == 0);
    return refused;
}
REAL(void *, aligned_alloc, (size_t align, size_t n)) {
    return refuses() ? NULL : counted(__real_aligned_alloc(align, n));
}
REAL(void, free, (void *block)) {
    add(&n_calls, 1);
    add(&n_live, -(block != NULL));
    __real_free(block);
}
REAL(char *, getenv, (const char *name)) {
    add(&n_getenv, 1);
    return __real_getenv(name);
}
REAL(int, pthread_create, (pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *user)) {
    add(&n_threads_started, 1);
    return __real_pthread_create(thread, how, run, user);
}
REAL(ssize_t, write, (int fd, const void *bytes, size_t n)) {
    add(&n_writes, 1);
    return __real_write(fd, bytes, n);
}
REAL(int, sigaction, (int number, const struct sigaction *now, struct sigaction *before)) {
    add(&n_handlers, now != NULL);
    return __real_sigaction(number, now, before);
}

/* ---- One life of a model and a session ---- */

enum { MOST = 64 };
static const char TEXT[] = "She looked at the ship and said";
static const char *path;
static unsigned char *state; /* room for a state */
static size_t n_state;
static float *embedding;

static uint32_t written[MOST];
static size_t n_written;

static int32_t on_token(void *user, uint32_t id, const char *text, size_t n_bytes) {
    (void)user, (void)text, (void)n_bytes;
    if (n_written < MOST) written[n_written++] = id;
    return 0;
}

/* Everything that a session does. */
static pith_status work(pith_session *session, const uint32_t *ids, size_t n_ids) {
    pith_generation generation = PITH_GENERATION_INIT;
    pith_sampling sampling = PITH_SAMPLING_INIT;
    const float *logits;
    const uint32_t *held;
    double log_probs[MOST];
    uint32_t id;
    size_t n;
    generation.max_tokens = 4;
    generation.sampling = &sampling;
    n_written = 0;
    sampling.repeat_penalty = 1.1f;
#define STEP(call)                                                \
    do {                                                          \
        const pith_status status = BEARABLE(call);                \
        if (status != PITH_OK) return status;                     \
    } while (0)
    STEP(pith_generate(session, 0, ids, n_ids, &generation, on_token, NULL, NULL, &error));
    STEP(pith_feed(session, 0, ids, 1, &logits, &error));
    STEP(pith_sample(session, 0, &sampling, &id, &error));
    sampling.top_k = 0;
    STEP(pith_sample(session, 0, &sampling, &id, &error));
    STEP(pith_sample(session, 0, NULL, &id, &error));
    STEP(pith_fork(session, 0, 1, &error));
    STEP(pith_truncate(session, 1, 5, &error));
    STEP(pith_score(session, 1, ids, n_ids, log_probs, &error));
    STEP(pith_state_save(session, 0, state, n_state, &n, &error));
    STEP(pith_state_load(session, 1, state, n, &error));
    STEP(pith_embed(session, 1, ids, n_ids, PITH_POOL_MEAN, 1, embedding, &error));
    STEP(pith_tokens(session, 0, &held, &n, &error));
    return PITH_OK;
}

/* What a sound program has to expect of a session: nothing is allocated to say so either. */
static void fail_within(pith_session *session, const uint32_t *ids, size_t n_ids) {
    pith_generation generation = PITH_GENERATION_INIT;
    size_t n;
    generation.flags = PITH_IGNORE_EOS;
    FAILS(PITH_BUFFER, pith_state_save(session, 0, NULL, 0, &n, &error));
    pith_cancel(session);
    FAILS(PITH_CANCELLED, pith_feed(session, 0, ids, n_ids, NULL, &error));
    BEARABLE(pith_generate(session, 0, ids, n_ids, &generation, NULL, NULL, NULL, &error));
    FAILS(PITH_FULL, pith_feed(session, 0, ids, n_ids, NULL, &error));
}

static pith_status live(uint32_t n_threads, int counts) {
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pith_memory memory = PITH_MEMORY_INIT;
    pith_model *model = NULL;
    pith_session *session = NULL;
    uint32_t ids[MOST];
    size_t n_ids;
    options.n_ctx = MOST;
    options.n_seq = 2;
    options.n_batch = 8;
    options.n_threads = n_threads;
    options.flags = PITH_SESSION_SCORE;
    pith_status status = BEARABLE(pith_model_open(path, NULL, &model, &error));
    if (status == PITH_OK) {
        status = BEARABLE(pith_tokenize(model, TEXT, sizeof TEXT - 1, 0, ids, MOST, &n_ids, &error));
    }
    if (status == PITH_OK) status = BEARABLE(pith_plan(model, &options, &memory, &error));
    if (status == PITH_OK) status = BEARABLE(pith_session_new(model, &options, &session, &error));
    if (status == PITH_OK) {
        const long before = n_calls;
        status = work(session, ids, n_ids);
        if (counts) CHECK(n_calls == before);
        if (counts) fail_within(session, ids, n_ids);
        if (counts) CHECK(n_calls == before);
    }
    pith_session_free(session);
    pith_model_free(model);
    return status;
}

/* The number of allocations of a life in which none fails. */
static long allocations(uint32_t n_threads) {
    const long before = n_allocations;
    CHECK(live(n_threads, 0) == PITH_OK);
    return n_allocations - before;
}

enum { SOUND, REFUSED_THERE, WRONG, KILLED };

/* A life in a process of its own, in which allocations fail from the n-th on: a system that kills it is
 * found out. */
static int refuse_from(long n, int all, uint32_t n_threads) {
    int ended;
    fflush(NULL);
    const pid_t child = fork();
    if (child < 0) fatal("fork");
    if (child == 0) {
        n_failed = 0;
        const long before = add(&n_live, 0);
        fail_all = all;
        fail_at = add(&n_allocations, 0) + n;
        const pith_status status = live(n_threads, 0);
        fail_at = -1;
        CHECK(status == PITH_OK || status == PITH_MEMORY);
        CHECK(n_live == before);
        CHECK(live(n_threads, 0) == PITH_OK);
        CHECK(n_live == before);
        _exit(n_failed > 0 ? WRONG : status == PITH_MEMORY ? REFUSED_THERE : SOUND);
    }
    waitpid(child, &ended, 0);
    return WIFEXITED(ended) ? WEXITSTATUS(ended) : KILLED;
}

/* Rust's standard library takes a thread's handle, 48 bytes, past the library's allocator, and ends the
 * process where it is refused. pith asks for as much just before, so that it takes a system that gives a
 * block and refuses the next ones: up to two n for each thread, none where a session has one. */
static void refusals(uint32_t n_threads, long stride) {
    const long n = allocations(n_threads);
    for (int all = 0; all < 2; all++) {
        long n_of[4] = {0, 0, 0, 0}, n_runs = 0;
        for (long i = 0; i < n; i += stride, n_runs++) {
            const int end = refuse_from(i, all, n_threads);
            n_of[end]++;
            if (end == WRONG || (end == KILLED && n_threads == 1)) {
                fprintf(stderr, "    allocation %ld%s, %u threads\n", i, all ? " and all behind" : "",
                        (unsigned)n_threads);
            }
        }
        CHECK(n_of[REFUSED_THERE] > 0 && n_of[WRONG] == 0);
        CHECK(n_of[KILLED] <= 2 * ((long)n_threads - 1));
        printf("oom: %ld allocations with %u threads, %s refused: %ld of %ld runs were PITH_MEMORY, %ld killed\n",
               n, (unsigned)n_threads, all ? "all from one on" : "one", n_of[REFUSED_THERE], n_runs,
               n_of[KILLED]);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) fatal("wanted a model and a stride");
    path = argv[1];
    const long stride = atol(argv[2]);

    n_state = 4 << 20;
    state = __real_malloc(n_state);
    embedding = __real_malloc(65536 * sizeof *embedding);

    /* What the first call makes once for all would count as a leak. */
    CHECK(live(1, 0) == PITH_OK);
    const long live_before = n_live;
    CHECK(live(1, 1) == PITH_OK);
    CHECK(n_live == live_before);
    CHECK(n_getenv == 0 && n_threads_started == 0 && n_writes == 0 && n_handlers == 0);
    refusals(1, stride);
    CHECK(n_getenv == 0 && n_threads_started == 0 && n_writes == 0 && n_handlers == 0);
    /* Nobody need read what Rust says before it ends a process. */
    const int shown = dup(2), hidden = open("/dev/null", O_WRONLY);
    CHECK(dup2(hidden, 2) == 2);
    refusals(2, 3 * stride);
    CHECK(dup2(shown, 2) == 2);
    CHECK(n_threads_started > 0);

    __real_free(embedding);
    __real_free(state);
    return report("oom");
}
