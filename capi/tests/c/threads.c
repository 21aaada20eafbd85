/* Proves the rules for threads: eight threads with sessions of their own over one model get what one
 * thread gets, bit for bit; a session that two threads use is PITH_BUSY to the second and undisturbed for
 * the first; pith_cancel works from another thread and from a signal handler; with one thread none is
 * started, and those of a session end with it.
 *
 * Under ThreadSanitizer only this side of the border is watched: the library isn't built with it. How its own
 * threads wait for each other can't be seen then, so that all sessions have one.
 *
 *   threads MODEL.gguf STEPS */
#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

enum { N_THREADS = 8, N_TEXTS = 4, MOST = 48 };

static const char *const TEXTS[N_TEXTS] = {"She looked at the ship", "It was a dark night", "The king",
                                           "One day the small dog went into the wood and"};
static pith_model *model;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- Many sessions ---- */

typedef struct {
    uint32_t ids[MOST];
    size_t n;
} Written;

static int32_t keep(void *user, uint32_t id, const char *text, size_t n_bytes) {
    Written *to = user;
    (void)text, (void)n_bytes;
    if (to->n < MOST) to->ids[to->n++] = id;
    return 0;
}

/* A text of MOST tokens, one of eight ways to draw it. */
static pith_status write_text(pith_session *session, int number, Written *to, pith_error *told) {
    pith_generation generation = PITH_GENERATION_INIT;
    pith_sampling sampling = PITH_SAMPLING_INIT;
    const char *text = TEXTS[number % N_TEXTS];
    uint32_t ids[MOST];
    size_t n;
    sampling.seed = (uint64_t)number;
    sampling.temp = number % 3 == 0 ? 0 : 0.9f;
    generation.max_tokens = MOST;
    generation.flags = PITH_IGNORE_EOS;
    generation.sampling = &sampling;
    to->n = 0;
    pith_status status = pith_tokenize(model, text, strlen(text), 0, ids, MOST, &n, told);
    if (status != PITH_OK) return status;
    return pith_generate(session, 0, ids, n, &generation, keep, to, NULL, told);
}

static pith_status new_session(uint32_t n_threads, pith_session **session, pith_error *told) {
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    options.n_ctx = 128;
#ifdef __SANITIZE_THREAD__
    n_threads = 1;
#endif
    options.n_threads = n_threads;
    return pith_session_new(model, &options, session, told);
}

static Written wanted[N_THREADS];
static long rounds;

/* Every thread writes all texts again and again, from another one on. */
static void *write_texts(void *number) {
    const int first = *(int *)number;
    pith_error told = PITH_ERROR_INIT;
    pith_session *session = NULL;
    long n_right = 0, n_wrong = 0;
    pith_status status = new_session(1, &session, &told);
    for (long i = 0; i < rounds && status == PITH_OK; i++) {
        Written written;
        const int text = (int)((first + i) % N_THREADS);
        status = write_text(session, text, &written, &told);
        const int same = written.n == MOST && memcmp(written.ids, wanted[text].ids, sizeof written.ids) == 0;
        *(same ? &n_right : &n_wrong) += 1;
    }
    pith_session_free(session);
    pthread_mutex_lock(&lock);
    CHECK(status == PITH_OK);
    CHECK(n_wrong == 0 && n_right == rounds);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void many_sessions(long steps) {
    pthread_t threads[N_THREADS];
    int numbers[N_THREADS];
    pith_session *session;
    WORKS(new_session(1, &session, &error));
    for (int i = 0; i < N_THREADS; i++) WORKS(write_text(session, i, &wanted[i], &error));
    CHECK(memcmp(&wanted[0], &wanted[1], sizeof wanted[0]) != 0);
    pith_session_free(session);
    rounds = steps / (N_THREADS * MOST) + 1;
    for (int i = 0; i < N_THREADS; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], NULL, write_texts, &numbers[i]) != 0) fatal("pthread_create");
    }
    for (int i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
    printf("threads: %ld steps by %d threads over one model\n", rounds * N_THREADS * MOST, N_THREADS);
}

/* ---- One session, two threads ---- */

static pith_session *shared;
enum { BEFORE, WRITING, OVER };
static int state;
static long n_busy, n_other;

static int get(const int *from) {
    pthread_mutex_lock(&lock);
    const int value = *from;
    pthread_mutex_unlock(&lock);
    return value;
}

static void set(int *to, int value) {
    pthread_mutex_lock(&lock);
    *to = value;
    pthread_mutex_unlock(&lock);
}

static void wait_a_little(void) {
    const struct timespec wait = {0, 50000};
    nanosleep(&wait, NULL);
}

static int refused;
static pthread_t intruder;

/* Goes on once the other thread has been refused, and ends it before the last token. */
static int32_t keep_when_refused(void *user, uint32_t id, const char *text, size_t n_bytes) {
    const Written *written = user;
    if (written->n == 0) set(&state, WRITING);
    while (!get(&refused)) wait_a_little();
    if (written->n == MOST - 1) {
        set(&state, OVER);
        pthread_join(intruder, NULL);
    }
    return keep(user, id, text, n_bytes);
}

static void *intrude(void *unused) {
    const uint32_t id = 1;
    const float *logits;
    while (get(&state) == BEFORE) wait_a_little();
    while (get(&state) == WRITING) {
        pith_error told = PITH_ERROR_INIT;
        const pith_status status = pith_feed(shared, 0, &id, 1, &logits, &told);
        *(status == PITH_BUSY && is_told(status, &told) ? &n_busy : &n_other) += 1;
        set(&refused, 1);
    }
    return unused;
}

static void one_session(void) {
    pith_generation generation = PITH_GENERATION_INIT;
    pith_sampling greedy = PITH_SAMPLING_INIT;
    Written alone = {{0}, 0}, disturbed = {{0}, 0};
    const uint32_t prompt[] = {5, 6, 7};
    pith_error told = PITH_ERROR_INIT;
    greedy.temp = 0;
    generation.max_tokens = MOST;
    generation.flags = PITH_IGNORE_EOS;
    generation.sampling = &greedy;
    CHECK(new_session(1, &shared, &told) == PITH_OK);
    CHECK(pith_generate(shared, 0, prompt, 3, &generation, keep, &alone, NULL, &told) == PITH_OK);
    for (int i = 0; i < 10; i++) {
        disturbed.n = 0;
        state = BEFORE;
        refused = 0;
        if (pthread_create(&intruder, NULL, intrude, NULL) != 0) fatal("pthread_create");
        const pith_status status =
            pith_generate(shared, 0, prompt, 3, &generation, keep_when_refused, &disturbed, NULL, &told);
        CHECK(status == PITH_OK);
        CHECK(disturbed.n == MOST && memcmp(alone.ids, disturbed.ids, sizeof alone.ids) == 0);
    }
    CHECK(n_busy >= 10 && n_other == 0);
    printf("threads: %ld times PITH_BUSY\n", n_busy);
    pith_session_free(shared);
}

/* ---- Cancelling ---- */

static void on_alarm(int number) {
    (void)number;
    pith_cancel(shared);
}

/* Generates until something ends it. */
static pith_status endless(pith_generated *generated) {
    pith_generation generation = PITH_GENERATION_INIT;
    const uint32_t prompt[] = {5, 6, 7};
    pith_status status = PITH_OK;
    generation.flags = PITH_IGNORE_EOS;
    for (int i = 0; i < 10000 && status == PITH_OK; i++) {
        status = pith_generate(shared, 0, prompt, 3, &generation, NULL, NULL, generated, &error);
    }
    return status;
}

static void *cancel_soon(void *unused) {
    const struct timespec wait = {0, 20000000};
    nanosleep(&wait, NULL);
    pith_cancel(shared);
    return unused;
}

static void cancelling(void) {
    pith_generated generated = PITH_GENERATED_INIT;
    pthread_t canceller;
    const struct itimerval soon = {{0, 0}, {0, 20000}};
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, NULL);
    WORKS(new_session(2, &shared, &error));
    for (int i = 0; i < 5; i++) {
        setitimer(ITIMER_REAL, &soon, NULL);
        FAILS(PITH_CANCELLED, endless(&generated));
        CHECK(generated.finish == PITH_FINISH_CANCELLED);
        if (pthread_create(&canceller, NULL, cancel_soon, NULL) != 0) fatal("pthread_create");
        FAILS(PITH_CANCELLED, endless(&generated));
        pthread_join(canceller, NULL);
    }
    /* Before a call, it is the next one's; then all is as ever. */
    const uint32_t id = 1;
    WORKS(pith_truncate(shared, 0, 0, &error));
    pith_cancel(shared);
    FAILS(PITH_CANCELLED, pith_feed(shared, 0, &id, 1, NULL, &error));
    WORKS(pith_feed(shared, 0, &id, 1, NULL, &error));
    pith_session_free(shared);
}

/* ---- Threads that are there ---- */

static long n_tasks(void) {
    long n = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (tasks == NULL) fatal("/proc/self/task");
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) n += task->d_name[0] != '.';
    closedir(tasks);
    return n;
}

static void started_and_ended(void) {
    pith_session *session;
    Written written;
    const long before = n_tasks();
    WORKS(new_session(1, &session, &error));
    WORKS(write_text(session, 1, &written, &error));
    CHECK(n_tasks() == before);
    pith_session_free(session);
    WORKS(new_session(4, &session, &error));
    WORKS(write_text(session, 1, &written, &error));
#ifndef __SANITIZE_THREAD__
    CHECK(n_tasks() == before + 3);
#endif
    /* The same bits on four. */
    CHECK(memcmp(written.ids, wanted[1].ids, sizeof written.ids) == 0);
    pith_session_free(session);
    CHECK(n_tasks() == before);
}

/* The library leaves signals as they were. */
static void check_signals(int again) {
    static void (*handlers[32])(int);
    for (int number = 1; number < 32; number++) {
        struct sigaction now;
        if (sigaction(number, NULL, &now) != 0 || number == SIGALRM) continue;
        if (again) CHECK(now.sa_handler == handlers[number]);
        handlers[number] = now.sa_handler;
    }
}

int main(int argc, char **argv) {
    if (argc != 3) fatal("wanted a model and a number of steps");
    check_signals(0);
    WORKS(pith_model_open(argv[1], NULL, &model, &error));
    if (n_failed > 0) return report("threads");
    many_sessions(atol(argv[2]));
    started_and_ended();
    one_session();
    cancelling();
    check_signals(1);
    pith_model_free(model);
    return report("threads");
}
