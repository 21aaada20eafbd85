/* Proves that a session is always what its calls have made it: a long random walk over all functions of
 * a session, arguments sound and absurd, some calls cancelled from a callback or from another thread at
 * random moments. After each call every sequence holds the tokens that it should, a failed call has
 * changed nothing, and at the end a sequence's logits are those of a fresh session, bit for bit.
 *
 *   walk MODEL.gguf STEPS */
#include "check.h"

#include <pthread.h>
#include <time.h>

enum { N_SEQ = 3, N_CTX = 48 };

static pith_model *model;
static pith_session *session;
static uint32_t n_vocab, n_embd;
static uint64_t seed = 0x9e3779b97f4a7c15u;

/* What the sequences should hold. */
static uint32_t held[N_SEQ][N_CTX];
static size_t n_held[N_SEQ];

static unsigned long n_done[PITH_INTERNAL + 1];

static void holds(uint32_t seq) {
    const uint32_t *ids = NULL;
    size_t n = 0;
    WORKS(pith_tokens(session, seq, &ids, &n, &error));
    CHECK(n == n_held[seq] && (n == 0 || memcmp(ids, held[seq], n * sizeof *ids) == 0));
}

/* ---- Cancelling from beside ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int over;

static void *cancel_now_and_then(void *unused) {
    uint64_t mine = 42;
    for (;;) {
        pthread_mutex_lock(&lock);
        const int is_over = over;
        pthread_mutex_unlock(&lock);
        if (is_over) return unused;
        const struct timespec wait = {0, (long)below(&mine, 5000000)};
        nanosleep(&wait, NULL);
        pith_cancel(session);
    }
}

/* ---- Calls ---- */

static size_t cancel_at;

static int32_t on_token(void *user, uint32_t id, const char *text, size_t n_bytes) {
    size_t *seq = user;
    CHECK(id < n_vocab && (text != NULL || n_bytes == 0));
    if (n_held[*seq] < N_CTX) held[*seq][n_held[*seq]++] = id;
    if (cancel_at == 0) return 0;
    if (--cancel_at == 1) pith_cancel(session);
    return cancel_at == 0;
}

/* Tokens: mostly sound ones, mostly few. */
static size_t some_ids(uint32_t *ids) {
    const size_t n = below(&seed, below(&seed, 8) == 0 ? N_CTX + 8 : 6);
    for (size_t i = 0; i < n; i++) {
        ids[i] = (uint32_t)below(&seed, below(&seed, 200) == 0 ? n_vocab * 2 : n_vocab);
    }
    return n;
}

static uint32_t some_seq(void) {
    return (uint32_t)below(&seed, below(&seed, 20) == 0 ? N_SEQ + 2 : N_SEQ);
}

static void hold(uint32_t seq, size_t from, const uint32_t *ids, size_t n) {
    CHECK(seq < N_SEQ && from + n <= N_CTX);
    if (seq >= N_SEQ || from + n > N_CTX) exit(report("walk"));
    if (n > 0) memmove(held[seq] + from, ids, n * sizeof *ids);
    n_held[seq] = from + n;
}

static pith_status generate(uint32_t seq, const uint32_t *ids, size_t n) {
    pith_generation generation = PITH_GENERATION_INIT;
    pith_generated generated = PITH_GENERATED_INIT;
    pith_sampling sampling = PITH_SAMPLING_INIT;
    const size_t before = seq < N_SEQ ? n_held[seq] : 0;
    uint32_t was[N_CTX] = {0};
    if (seq < N_SEQ) memcpy(was, held[seq], sizeof was);
    sampling.seed = next_random(&seed);
    generation.max_tokens = (uint32_t)below(&seed, 12);
    generation.flags = PITH_IGNORE_EOS;
    generation.sampling = below(&seed, 2) ? &sampling : NULL;
    cancel_at = below(&seed, 6);
    size_t index = seq;
    /* What on_token hands out goes behind the prompt. */
    if (seq < N_SEQ && n <= N_CTX) hold(seq, 0, ids, n);
    const pith_status status =
        BEARABLE(pith_generate(session, seq, ids, n, &generation, on_token, &index, &generated, &error));
    if (seq >= N_SEQ) return status;
    if (status == PITH_OK || (status == PITH_CANCELLED && n_held[seq] > n)) {
        CHECK(generated.n_tokens == n_held[seq] - n && generated.n_prompt <= n);
    } else if (status == PITH_CANCELLED) {
        /* Nothing was handed out: it holds the prompt, or the beginning that this has in common with what was. */
        const uint32_t *now;
        size_t n_now;
        WORKS(pith_tokens(session, seq, &now, &n_now, &error));
        const uint32_t *same = n_now == n ? held[seq] : was;
        CHECK(n_now == n || n_now <= before);
        CHECK(n_now == 0 || memcmp(now, same, n_now * sizeof *now) == 0);
        hold(seq, 0, same, n_now);
    } else {
        hold(seq, 0, was, before);
    }
    return status;
}

static pith_status score(uint32_t seq, const uint32_t *ids, size_t n) {
    double log_probs[N_CTX + 8];
    const pith_status status = BEARABLE(pith_score(session, seq, ids, n, log_probs, &error));
    if (status == PITH_OK) {
        for (size_t i = 0; i + 1 < n; i++) CHECK(log_probs[i] <= 0);
        hold(seq, n_held[seq], ids, n);
    }
    return status;
}

static pith_status embed(uint32_t seq, const uint32_t *ids, size_t n, float *embedding) {
    const pith_pooling pooling = (pith_pooling)below(&seed, 2);
    const pith_status status =
        BEARABLE(pith_embed(session, seq, ids, n, pooling, 1, embedding, &error));
    if (status == PITH_OK) {
        double length = 0;
        for (uint32_t i = 0; i < n_embd; i++) length += (double)embedding[i] * embedding[i];
        CHECK(length > 0.999 && length < 1.001);
        hold(seq, 0, ids, n);
    } else if (status == PITH_CANCELLED) {
        hold(seq, 0, NULL, 0);
    }
    return status;
}

/* Saves one sequence and loads it as another. */
static pith_status carry(uint32_t from, uint32_t to, unsigned char *state, size_t room) {
    size_t n_state;
    pith_status status = BEARABLE(pith_state_save(session, from, state, room, &n_state, &error));
    if (status != PITH_OK) return status;
    status = BEARABLE(pith_state_load(session, to, state, n_state, &error));
    if (status == PITH_OK) {
        memmove(held[to], held[from], sizeof held[to]);
        n_held[to] = n_held[from];
    }
    return status;
}

static pith_status step(float *embedding, unsigned char *state, size_t n_state) {
    uint32_t ids[N_CTX + 8], id;
    size_t n = some_ids(ids);
    const uint32_t seq = some_seq(), to = some_seq();
    const float *logits = NULL;
    pith_status status;
    switch (below(&seed, 10)) {
    case 0:
    case 1:
        status = BEARABLE(pith_feed(session, seq, ids, n, &logits, &error));
        CHECK((logits != NULL) == (status == PITH_OK));
        if (status == PITH_OK) hold(seq, n_held[seq], ids, n);
        return status;
    case 2:
        status = BEARABLE(pith_sample(session, seq, NULL, &id, &error));
        CHECK(status == PITH_OK ? id < n_vocab : id == 0);
        return status;
    case 3:
    case 4:
        return generate(seq, ids, n);
    case 5:
        return score(seq, ids, n);
    case 6:
        return embed(seq, ids, n, embedding);
    case 7:
        n = below(&seed, N_CTX + 8);
        status = BEARABLE(pith_truncate(session, seq, n, &error));
        if (status == PITH_OK && n < n_held[seq]) n_held[seq] = n;
        return status;
    case 8:
        status = BEARABLE(pith_fork(session, seq, to, &error));
        if (status == PITH_OK && seq != to) hold(to, 0, held[seq], n_held[seq]);
        return status;
    default:
        return carry(seq, to, state, below(&seed, 8) == 0 ? n_state / 50 : n_state);
    }
}

/* All that was done to it leaves a sequence what its tokens make of it. */
static void same_as_fresh(const pith_session_options *options) {
    for (uint32_t seq = 0; seq < N_SEQ; seq++) {
        pith_session *fresh;
        const float *mine = NULL, *other = NULL;
        const uint32_t next = 1;
        if (n_held[seq] == N_CTX) WORKS(pith_truncate(session, seq, --n_held[seq], &error));
        WORKS(pith_session_new(model, options, &fresh, &error));
        if (n_held[seq] > 0) WORKS(pith_feed(fresh, 0, held[seq], n_held[seq], NULL, &error));
        WORKS(pith_feed(fresh, 0, &next, 1, &other, &error));
        WORKS(pith_feed(session, seq, &next, 1, &mine, &error));
        CHECK(mine != NULL && other != NULL && memcmp(mine, other, n_vocab * sizeof *mine) == 0);
        pith_session_free(fresh);
    }
}

int main(int argc, char **argv) {
    pith_model_info info = PITH_MODEL_INFO_INIT;
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pthread_t canceller;
    if (argc != 3) fatal("wanted a model and a number of steps");
    options.n_ctx = N_CTX;
    options.n_seq = N_SEQ;
    options.n_batch = 8;
    options.n_threads = 1;
    options.flags = PITH_SESSION_SCORE;
    WORKS(pith_model_open(argv[1], NULL, &model, &error));
    WORKS(pith_session_new(model, &options, &session, &error));
    if (n_failed > 0) return report("walk");
    WORKS(pith_model_get_info(model, &info, &error));
    n_vocab = info.n_vocab, n_embd = info.n_embd;
    pith_memory memory = PITH_MEMORY_INIT;
    WORKS(pith_plan(model, &options, &memory, &error));
    const size_t n_state = (size_t)memory.kv + 4096;
    unsigned char *state = malloc(n_state);
    float *embedding = malloc(n_embd * sizeof *embedding);

    if (pthread_create(&canceller, NULL, cancel_now_and_then, NULL) != 0) fatal("pthread_create");
    const long steps = atol(argv[2]);
    for (long i = 0; i < steps; i++) {
        const pith_status status = step(embedding, state, n_state);
        if (status >= 0 && status <= PITH_INTERNAL) n_done[status]++;
        for (uint32_t seq = 0; seq < N_SEQ; seq++) holds(seq);
    }
    pthread_mutex_lock(&lock);
    over = 1;
    pthread_mutex_unlock(&lock);
    pthread_join(canceller, NULL);
    /* A cancel that came between two calls is the next one's. */
    const uint32_t one = 1;
    WORKS(pith_truncate(session, 2, 0, &error));
    n_held[2] = 0;
    if (BEARABLE(pith_feed(session, 2, &one, 1, NULL, &error)) == PITH_OK) hold(2, 0, &one, 1);
    same_as_fresh(&options);

    printf("walk: %ld calls:", steps);
    for (pith_status status = 0; status <= PITH_INTERNAL; status++) {
        if (n_done[status] > 0) printf(" %lu %s;", n_done[status], pith_status_text(status));
    }
    putchar('\n');
    CHECK(n_done[PITH_OK] > 0 && n_done[PITH_INVALID] > 0 && n_done[PITH_FULL] > 0);
    CHECK(n_done[PITH_CANCELLED] > 0 && n_done[PITH_INTERNAL] == 0);
    free(embedding);
    free(state);
    pith_session_free(session);
    pith_model_free(model);
    return report("walk");
}
