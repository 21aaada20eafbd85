/* Proves that arguments that make no sense are errors with a status and words, in every function: NULL
 * for each pointer, struct sizes and numbers out of range, sequences and ids that aren't there, buffers
 * that are too small, a session that is used from within its own callback. Outputs are then NULL or 0.
 *
 *   hostile LANGUAGE-MODEL.gguf CLASSIFIER.gguf */
#include "check.h"

#include <math.h>
#include <sys/resource.h>

static pith_model *model, *classifier;
static pith_session *session;
static pith_model_info info;
static uint32_t ids[64];
static size_t n_ids;
static const char TEXT[] = "She looked at the ship and said";

/* ---- NULL ---- */

static void null_models(const char *path, const void *data, size_t n_bytes) {
    pith_model *out = (pith_model *)&error;
    pith_adapter *adapter = (pith_adapter *)&error;
    pith_reader reader = {sizeof reader, 8, NULL, NULL};
    pith_model_info got = PITH_MODEL_INFO_INIT;
    FAILS(PITH_INVALID, pith_model_open(NULL, NULL, &out, &error));
    CHECK(out == NULL);
    FAILS(PITH_INVALID, pith_model_open(path, NULL, NULL, &error));
    out = (pith_model *)&error;
    FAILS(PITH_INVALID, pith_model_from_memory(NULL, n_bytes, NULL, &out, &error));
    CHECK(out == NULL);
    REFUSED(pith_model_from_memory(NULL, 0, NULL, &out, &error));
    FAILS(PITH_INVALID, pith_model_from_memory(data, n_bytes, NULL, NULL, &error));
    out = (pith_model *)&error;
    FAILS(PITH_INVALID, pith_model_from_reader(NULL, NULL, &out, &error));
    CHECK(out == NULL);
    FAILS(PITH_INVALID, pith_model_from_reader(&reader, NULL, &out, &error));
    FAILS(PITH_INVALID, pith_model_from_reader(&reader, NULL, NULL, &error));
    FAILS(PITH_INVALID, pith_model_get_info(NULL, &got, &error));
    FAILS(PITH_INVALID, pith_model_get_info(model, NULL, &error));
    CHECK(pith_model_label(NULL, 0) == NULL);
    CHECK(pith_model_label(model, 0) == NULL);
    CHECK(pith_model_label(classifier, UINT32_MAX) == NULL);
    CHECK(pith_model_label(classifier, 0) != NULL);
    FAILS(PITH_INVALID, pith_adapter_open(NULL, &adapter, &error));
    CHECK(adapter == NULL);
    FAILS(PITH_INVALID, pith_adapter_open(path, NULL, &error));
    /* A model is no adapter. */
    REFUSED(pith_adapter_open(path, &adapter, &error));
    FAILS(PITH_IO, pith_adapter_open("/is/not/there", &adapter, &error));
    FAILS(PITH_IO, pith_model_open("/is/not/there", NULL, &out, &error));
    REFUSED(pith_model_open("/", NULL, &out, &error));
    REFUSED(pith_model_open("", NULL, &out, &error));
    pith_model_free(NULL);
    pith_adapter_free(NULL);
    pith_session_free(NULL);
    pith_cancel(NULL);
}

static void null_texts(void) {
    size_t n = 7;
    char text[64];
    uint32_t out[64];
    FAILS(PITH_INVALID, pith_tokenize(NULL, TEXT, 4, 0, out, 64, &n, &error));
    CHECK(n == 0);
    FAILS(PITH_INVALID, pith_tokenize(model, NULL, 4, 0, out, 64, &n, &error));
    FAILS(PITH_INVALID, pith_tokenize(model, TEXT, 4, 0, NULL, 64, &n, &error));
    FAILS(PITH_INVALID, pith_tokenize(model, TEXT, 4, 0, out, 64, NULL, &error));
    WORKS(pith_tokenize(model, NULL, 0, 0, NULL, 0, &n, &error));
    CHECK(n == 0);
    n = 7;
    FAILS(PITH_INVALID, pith_detokenize(NULL, ids, 4, 0, text, 64, &n, &error));
    CHECK(n == 0);
    FAILS(PITH_INVALID, pith_detokenize(model, NULL, 4, 0, text, 64, &n, &error));
    FAILS(PITH_INVALID, pith_detokenize(model, ids, 4, 0, NULL, 64, &n, &error));
    FAILS(PITH_INVALID, pith_detokenize(model, ids, 4, 0, text, 64, NULL, &error));
    WORKS(pith_detokenize(model, NULL, 0, 0, NULL, 0, &n, &error));
    CHECK(n == 0);
}

static void null_sessions(void) {
    pith_memory memory = PITH_MEMORY_INIT;
    pith_session *out = (pith_session *)&error;
    const uint32_t *held = ids;
    const float *logits = (const float *)ids;
    size_t n = 7;
    uint32_t id = 7;
    double log_probs[64];
    float values[64];
    unsigned char state[64];
    FAILS(PITH_INVALID, pith_plan(NULL, NULL, &memory, &error));
    FAILS(PITH_INVALID, pith_plan(model, NULL, NULL, &error));
    FAILS(PITH_INVALID, pith_session_new(NULL, NULL, &out, &error));
    CHECK(out == NULL);
    FAILS(PITH_INVALID, pith_session_new(model, NULL, NULL, &error));
    FAILS(PITH_INVALID, pith_tokens(NULL, 0, &held, &n, &error));
    CHECK(held == NULL && n == 0);
    FAILS(PITH_INVALID, pith_tokens(session, 0, NULL, &n, &error));
    FAILS(PITH_INVALID, pith_tokens(session, 0, &held, NULL, &error));
    FAILS(PITH_INVALID, pith_feed(NULL, 0, ids, n_ids, &logits, &error));
    CHECK(logits == NULL);
    FAILS(PITH_INVALID, pith_feed(session, 0, NULL, n_ids, &logits, &error));
    FAILS(PITH_INVALID, pith_sample(NULL, 0, NULL, &id, &error));
    FAILS(PITH_INVALID, pith_sample(session, 0, NULL, NULL, &error));
    FAILS(PITH_INVALID, pith_generate(NULL, 0, ids, n_ids, NULL, NULL, NULL, NULL, &error));
    FAILS(PITH_INVALID, pith_generate(session, 0, NULL, n_ids, NULL, NULL, NULL, NULL, &error));
    FAILS(PITH_INVALID, pith_score(NULL, 0, ids, n_ids, log_probs, &error));
    FAILS(PITH_INVALID, pith_score(session, 0, NULL, n_ids, log_probs, &error));
    FAILS(PITH_INVALID, pith_score(session, 0, ids, n_ids, NULL, &error));
    FAILS(PITH_INVALID, pith_classify(NULL, 0, ids, n_ids, values, 64, &n, &error));
    FAILS(PITH_INVALID, pith_embed(NULL, 0, ids, n_ids, PITH_POOL_MEAN, 1, values, &error));
    FAILS(PITH_INVALID, pith_embed(session, 0, ids, n_ids, PITH_POOL_MEAN, 1, NULL, &error));
    FAILS(PITH_INVALID, pith_truncate(NULL, 0, 0, &error));
    FAILS(PITH_INVALID, pith_fork(NULL, 0, 1, &error));
    FAILS(PITH_INVALID, pith_state_save(NULL, 0, state, 64, &n, &error));
    FAILS(PITH_INVALID, pith_state_save(session, 0, NULL, 64, &n, &error));
    FAILS(PITH_INVALID, pith_state_save(session, 0, state, 64, NULL, &error));
    FAILS(PITH_INVALID, pith_state_load(NULL, 0, state, 64, &error));
    FAILS(PITH_INVALID, pith_state_load(session, 0, NULL, 64, &error));
    /* And nowhere to say why. */
    CHECK(pith_model_open(NULL, NULL, NULL, NULL) == PITH_INVALID);
    CHECK(pith_feed(session, 9, ids, n_ids, NULL, NULL) == PITH_INVALID);
    CHECK(pith_feed(session, 0, ids, 0, NULL, NULL) == PITH_INVALID);
}

/* ---- Struct sizes ---- */

/* A size that is none a struct ever had, for one of `size` bytes. */
static size_t wrong_size(int i, size_t size) {
    const size_t wrong[] = {0, 1, sizeof(size_t) - 1, sizeof(size_t), size - 1, SIZE_MAX / 2, SIZE_MAX};
    return wrong[i];
}

/* Structs that are shorter than the first version's are refused, and such whose size can't be one. Longer
 * ones are a later version's: see abi_1.c. */
static void struct_sizes(const char *path, const void *data, size_t n_bytes) {
    for (int i = 0; i < 7; i++) {
        pith_model *out;
        pith_session *made;
        pith_model_options model_options = PITH_MODEL_OPTIONS_INIT;
        pith_reader reader = {sizeof reader, 8, NULL, NULL};
        pith_model_info got = PITH_MODEL_INFO_INIT;
        pith_session_options options = PITH_SESSION_OPTIONS_INIT;
        pith_memory memory = PITH_MEMORY_INIT;
        pith_sampling sampling = PITH_SAMPLING_INIT;
        pith_generation generation = PITH_GENERATION_INIT;
        pith_generated generated = PITH_GENERATED_INIT;
        pith_error wrong_error;
        uint32_t id;
        model_options.struct_size = wrong_size(i, sizeof model_options);
        reader.struct_size = wrong_size(i, sizeof reader);
        got.struct_size = wrong_size(i, sizeof got);
        options.struct_size = wrong_size(i, sizeof options);
        memory.struct_size = wrong_size(i, sizeof memory);
        sampling.struct_size = wrong_size(i, sizeof sampling);
        generation.struct_size = wrong_size(i, sizeof generation);
        generated.struct_size = wrong_size(i, sizeof generated);
        FAILS(PITH_INVALID, pith_model_open(path, &model_options, &out, &error));
        FAILS(PITH_INVALID, pith_model_from_memory(data, n_bytes, &model_options, &out, &error));
        FAILS(PITH_INVALID, pith_model_from_reader(&reader, NULL, &out, &error));
        FAILS(PITH_INVALID, pith_model_get_info(model, &got, &error));
        FAILS(PITH_INVALID, pith_plan(model, &options, &memory, &error));
        FAILS(PITH_INVALID, pith_plan(model, NULL, &memory, &error));
        FAILS(PITH_INVALID, pith_session_new(model, &options, &made, &error));
        WORKS(pith_feed(session, 0, ids, 1, NULL, &error));
        FAILS(PITH_INVALID, pith_sample(session, 0, &sampling, &id, &error));
        FAILS(PITH_INVALID, pith_generate(session, 0, ids, 1, &generation, NULL, NULL, NULL, &error));
        FAILS(PITH_INVALID, pith_generate(session, 0, ids, 1, NULL, NULL, NULL, &generated, &error));
        generation.struct_size = sizeof generation;
        generation.sampling = &sampling;
        FAILS(PITH_INVALID, pith_generate(session, 0, ids, 1, &generation, NULL, NULL, NULL, &error));
        /* An error without room isn't touched. */
        memset(&wrong_error, 0x5a, sizeof wrong_error);
        wrong_error.struct_size = wrong_size(i, sizeof wrong_error);
        CHECK(pith_model_open(path, &model_options, &out, &wrong_error) == PITH_INVALID);
        CHECK(wrong_error.status == 0x5a5a5a5a && wrong_error.message[0] == 0x5a);
    }
}

/* ---- Numbers ---- */

static const uint32_t NUMBERS[] = {0, 1, 3, 0x7fffffff, 0x80000000, 0xfffffffe, UINT32_MAX};
enum { N_NUMBERS = sizeof NUMBERS / sizeof *NUMBERS };

static void try_options(const pith_session_options *options) {
    pith_memory memory = PITH_MEMORY_INIT;
    pith_session *made = (pith_session *)&error;
    const pith_status planned = BEARABLE(pith_plan(model, options, &memory, &error));
    const pith_status status = BEARABLE(pith_session_new(model, options, &made, &error));
    CHECK((made != NULL) == (status == PITH_OK));
    if (planned != PITH_OK) CHECK(status == planned);
    if (status == PITH_OK) WORKS(pith_feed(made, 0, ids, 1, NULL, &error));
    pith_session_free(made);
}

static void session_options(void) {
    for (int field = 0; field < 6; field++) {
        for (int i = 0; i < N_NUMBERS; i++) {
            pith_session_options options = PITH_SESSION_OPTIONS_INIT;
            uint32_t *fields[] = {&options.n_ctx, &options.n_seq, &options.n_batch,
                                  &options.n_threads, &options.flags, (uint32_t *)&options.cache};
            options.n_threads = 1;
            *fields[field] = NUMBERS[i];
            try_options(&options);
            options.max_memory = 64 << 20;
            try_options(&options);
        }
    }
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pith_session *made;
    const pith_adapter *none = NULL;
    options.n_adapters = 1;
    FAILS(PITH_INVALID, pith_session_new(model, &options, &made, &error));
    options.adapters = &none;
    FAILS(PITH_INVALID, pith_session_new(model, &options, &made, &error));
    options.n_adapters = SIZE_MAX;
    FAILS(PITH_INVALID, pith_session_new(model, &options, &made, &error));
}

static void lengths(const void *data) {
    pith_model *out;
    size_t n;
    char text[64];
    uint32_t got[64];
    double log_prob;
    float value;
    static const size_t huge[] = {SIZE_MAX, SIZE_MAX / 2 + 1, SIZE_MAX / 4 + 2};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        REFUSED(pith_feed(session, 0, ids, huge[i], NULL, &error));
        REFUSED(pith_generate(session, 0, ids, huge[i], NULL, NULL, NULL, NULL, &error));
        REFUSED(pith_score(session, 0, ids, huge[i], &log_prob, &error));
        REFUSED(pith_embed(session, 0, ids, huge[i], PITH_POOL_MEAN, 0, &value, &error));
        REFUSED(pith_detokenize(model, ids, huge[i], 0, text, sizeof text, &n, &error));
        CHECK(n == 0);
        BEARABLE(pith_truncate(session, 0, huge[i], &error));
        BEARABLE(pith_tokenize(model, TEXT, 3, 0, got, huge[i], &n, &error));
    }
    for (int i = 0; i < 2; i++) {
        FAILS(PITH_INVALID, pith_tokenize(model, TEXT, huge[i], 0, got, 64, &n, &error));
        FAILS(PITH_INVALID, pith_model_from_memory(data, huge[i], NULL, &out, &error));
        REFUSED(pith_state_load(session, 0, ids, huge[i], &error));
    }
}

static void sequences_and_ids(void) {
    const uint32_t wrong[] = {info.n_vocab, info.n_vocab + 1, 0x80000000, UINT32_MAX};
    const uint32_t *held;
    uint32_t id;
    size_t n;
    double log_probs[2];
    char text[64];
    unsigned char state[64];
    float *embedding = malloc(info.n_embd * sizeof *embedding);
    for (int i = 0; i < 4; i++) {
        const uint32_t seq = i == 0 ? 2 : wrong[i], pair[2] = {ids[0], wrong[i]};
        FAILS(PITH_INVALID, pith_tokens(session, seq, &held, &n, &error));
        FAILS(PITH_INVALID, pith_feed(session, seq, ids, 1, NULL, &error));
        FAILS(PITH_INVALID, pith_sample(session, seq, NULL, &id, &error));
        FAILS(PITH_INVALID, pith_generate(session, seq, ids, 1, NULL, NULL, NULL, NULL, &error));
        FAILS(PITH_INVALID, pith_score(session, seq, ids, 2, log_probs, &error));
        FAILS(PITH_INVALID, pith_embed(session, seq, ids, 2, PITH_POOL_LAST, 0, embedding, &error));
        FAILS(PITH_INVALID, pith_truncate(session, seq, 0, &error));
        FAILS(PITH_INVALID, pith_fork(session, seq, 0, &error));
        FAILS(PITH_INVALID, pith_fork(session, 0, seq, &error));
        FAILS(PITH_INVALID, pith_state_save(session, seq, state, 64, &n, &error));
        CHECK(n == 0);
        FAILS(PITH_INVALID, pith_state_load(session, seq, state, 64, &error));
        FAILS(PITH_INVALID, pith_feed(session, 0, pair, 2, NULL, &error));
        FAILS(PITH_INVALID, pith_generate(session, 0, pair, 2, NULL, NULL, NULL, NULL, &error));
        FAILS(PITH_INVALID, pith_score(session, 0, pair, 2, log_probs, &error));
        FAILS(PITH_INVALID, pith_embed(session, 0, pair, 2, PITH_POOL_LAST, 0, embedding, &error));
        BEARABLE(pith_detokenize(model, pair, 2, 0, text, 64, &n, &error));
    }
    FAILS(PITH_INVALID, pith_feed(session, 0, ids, 0, NULL, &error));
    FAILS(PITH_INVALID, pith_embed(session, 0, ids, 0, PITH_POOL_LAST, 0, embedding, &error));
    FAILS(PITH_INVALID, pith_embed(session, 0, ids, 2, 7, 0, embedding, &error));
    FAILS(PITH_INVALID, pith_embed(session, 0, ids, 2, -1, 0, embedding, &error));
    free(embedding);
}

static void samplings(void) {
    const float wrong[] = {NAN, INFINITY, -INFINITY, -1, 1e30f, 2, 0};
    uint32_t id;
    WORKS(pith_truncate(session, 0, 0, &error));
    FAILS(PITH_INVALID, pith_sample(session, 1, NULL, &id, &error));
    WORKS(pith_feed(session, 0, ids, n_ids, NULL, &error));
    FAILS(PITH_INVALID, pith_sample(session, 1, NULL, &id, &error));
    for (int i = 0; i < 7; i++) {
        for (int field = 0; field < 4; field++) {
            pith_sampling sampling = PITH_SAMPLING_INIT;
            float *fields[] = {&sampling.repeat_penalty, &sampling.top_p, &sampling.min_p,
                               &sampling.temp};
            *fields[field] = wrong[i];
            sampling.repeat_last_n = sampling.top_k = NUMBERS[i];
            id = UINT32_MAX;
            if (BEARABLE(pith_sample(session, 0, &sampling, &id, &error)) == PITH_OK) {
                CHECK(id < info.n_vocab);
            } else {
                CHECK(id == 0);
            }
        }
    }
}

/* ---- Sessions and models made for something else ---- */

static void wrong_kinds(void) {
    pith_session *plain, *head;
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pith_model_info labels = PITH_MODEL_INFO_INIT;
    double log_probs[64];
    float values[64];
    float *embedding = malloc(info.n_embd * sizeof *embedding);
    uint32_t id, mine[2];
    size_t n;
    options.n_threads = 1;
    WORKS(pith_session_new(model, &options, &plain, &error));
    WORKS(pith_session_new(classifier, &options, &head, &error));
    WORKS(pith_tokenize(classifier, TEXT, 3, 0, mine, 2, &n, &error));
    FAILS(PITH_INVALID, pith_score(plain, 0, ids, n_ids, log_probs, &error));
    FAILS(PITH_INVALID, pith_embed(plain, 0, ids, n_ids, PITH_POOL_MEAN, 1, embedding, &error));
    REFUSED(pith_classify(plain, 0, ids, n_ids, values, 64, &n, &error));
    CHECK(n == 0);
    REFUSED(pith_feed(head, 0, mine, n, NULL, &error));
    REFUSED(pith_sample(head, 0, NULL, &id, &error));
    REFUSED(pith_score(head, 0, mine, n, log_probs, &error));
    REFUSED(pith_generate(head, 0, mine, n, NULL, NULL, NULL, NULL, &error));
    WORKS(pith_tokenize(classifier, TEXT, 3, 0, mine, 2, &n, &error));
    const size_t n_mine = n;
    FAILS(PITH_INVALID, pith_classify(head, 0, NULL, n_mine, values, 64, &n, &error));
    FAILS(PITH_INVALID, pith_classify(head, 0, mine, n_mine, NULL, 64, &n, &error));
    FAILS(PITH_INVALID, pith_classify(head, 0, mine, n_mine, values, 64, NULL, &error));
    FAILS(PITH_INVALID, pith_classify(head, 1, mine, n_mine, values, 64, &n, &error));
    FAILS(PITH_INVALID, pith_classify(head, 0, mine, 0, values, 64, &n, &error));
    WORKS(pith_model_get_info(classifier, &labels, &error));
    for (uint32_t room = 0; room < labels.n_labels; room++) {
        FAILS(PITH_BUFFER, pith_classify(head, 0, mine, n_mine, values, room, &n, &error));
        CHECK(error.needed == labels.n_labels);
    }
    WORKS(pith_classify(head, 0, mine, n_mine, values, labels.n_labels, &n, &error));
    CHECK(n == 1);
    pith_session_free(head);
    pith_session_free(plain);
    free(embedding);
}

/* ---- Buffers ---- */

/* Blocks of exactly what is said, so that a byte more is an error to valgrind and ASan. */
static void small_buffers(void) {
    size_t n, n_text, n_state;
    FAILS(PITH_BUFFER, pith_tokenize(model, TEXT, sizeof TEXT - 1, 0, NULL, 0, &n, &error));
    CHECK(n == n_ids && error.needed == n_ids);
    for (size_t room = 0; room < n_ids; room++) {
        uint32_t *small = malloc(room * sizeof *small + 1);
        FAILS(PITH_BUFFER, pith_tokenize(model, TEXT, sizeof TEXT - 1, 0, small, room, &n, &error));
        CHECK(n == n_ids && error.needed == n_ids);
        free(small);
    }
    FAILS(PITH_BUFFER, pith_detokenize(model, ids, n_ids, 0, NULL, 0, &n_text, &error));
    CHECK(n_text == sizeof TEXT - 1);
    for (size_t room = 0; room <= n_text; room++) {
        char *small = malloc(room + 1);
        small[room] = 0x5a;
        const pith_status status =
            BEARABLE(pith_detokenize(model, ids, n_ids, 0, small, room, &n, &error));
        CHECK(status == (room < n_text ? PITH_BUFFER : PITH_OK) && n == n_text);
        CHECK(small[room] == 0x5a && (status != PITH_OK || memcmp(small, TEXT, n_text) == 0));
        free(small);
    }
    WORKS(pith_truncate(session, 0, 0, &error));
    WORKS(pith_feed(session, 0, ids, n_ids, NULL, &error));
    FAILS(PITH_BUFFER, pith_state_save(session, 0, NULL, 0, &n_state, &error));
    CHECK(error.needed == n_state && n_state > 0);
    for (size_t room = 1; room <= n_state; room += room < n_state ? (n_state - room) / 2 + 1 : 1) {
        unsigned char *small = malloc(room);
        const pith_status status = BEARABLE(pith_state_save(session, 0, small, room, &n, &error));
        CHECK(status == (room < n_state ? PITH_BUFFER : PITH_OK) && n == n_state);
        free(small);
    }
}

/* ---- A session within its own callback ---- */

static int32_t reenter(void *user, uint32_t id, const char *text, size_t n_bytes) {
    const uint32_t *held;
    const float *logits;
    size_t n;
    double log_probs[2];
    unsigned char state[64];
    float *embedding = user;
    (void)id, (void)text, (void)n_bytes;
    FAILS(PITH_BUSY, pith_tokens(session, 0, &held, &n, &error));
    FAILS(PITH_BUSY, pith_feed(session, 1, ids, 1, &logits, &error));
    FAILS(PITH_BUSY, pith_sample(session, 0, NULL, &id, &error));
    FAILS(PITH_BUSY, pith_generate(session, 1, ids, 1, NULL, NULL, NULL, NULL, &error));
    FAILS(PITH_BUSY, pith_score(session, 1, ids, 2, log_probs, &error));
    FAILS(PITH_BUSY, pith_embed(session, 1, ids, 1, PITH_POOL_MEAN, 1, embedding, &error));
    FAILS(PITH_BUSY, pith_truncate(session, 0, 0, &error));
    FAILS(PITH_BUSY, pith_fork(session, 0, 1, &error));
    FAILS(PITH_BUSY, pith_state_save(session, 0, state, 64, &n, &error));
    FAILS(PITH_BUSY, pith_state_load(session, 0, state, 64, &error));
    /* The model is anybody's. */
    WORKS(pith_detokenize(model, &id, 0, 0, NULL, 0, &n, &error));
    return 0;
}

static void reentrance(void) {
    pith_generation generation = PITH_GENERATION_INIT;
    pith_generated generated = PITH_GENERATED_INIT;
    float *embedding = malloc(info.n_embd * sizeof *embedding);
    generation.max_tokens = 3;
    generation.flags = PITH_IGNORE_EOS;
    WORKS(pith_generate(session, 0, ids, n_ids, &generation, reenter, embedding, &generated, &error));
    CHECK(generated.n_tokens == 3 && generated.finish == PITH_FINISH_LENGTH);
    WORKS(pith_feed(session, 1, ids, 1, NULL, &error));
    free(embedding);
}

int main(int argc, char **argv) {
    size_t n_bytes;
    if (argc != 3) fatal("wanted a language model and a classifier");
#ifndef __SANITIZE_ADDRESS__
    /* What is absurd is refused even where the machine has it. */
    const struct rlimit limit = {(rlim_t)8 << 30, (rlim_t)8 << 30};
    if (setrlimit(RLIMIT_AS, &limit) != 0) fatal("setrlimit");
#endif
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    options.n_seq = 2;
    options.n_threads = 1;
    options.flags = PITH_SESSION_SCORE;
    info.struct_size = sizeof info;
    WORKS(pith_model_open(argv[1], NULL, &model, &error));
    WORKS(pith_model_open(argv[2], NULL, &classifier, &error));
    WORKS(pith_model_get_info(model, &info, &error));
    WORKS(pith_session_new(model, &options, &session, &error));
    WORKS(pith_tokenize(model, TEXT, sizeof TEXT - 1, 0, ids, 64, &n_ids, &error));
    if (n_failed > 0) return report("hostile");
    unsigned char *data = read_file(argv[1], &n_bytes);

    CHECK(pith_abi_version() >= PITH_ABI_VERSION && pith_version() != NULL);
    for (pith_status status = -2; status < 13; status++) CHECK(pith_status_text(status)[0] != 0);
    null_models(argv[1], data, n_bytes);
    null_texts();
    null_sessions();
    struct_sizes(argv[1], data, n_bytes);
    session_options();
    lengths(data);
    sequences_and_ids();
    samplings();
    wrong_kinds();
    small_buffers();
    reentrance();

    free(data);
    /* In the wrong order, which is no error. */
    pith_model_free(model);
    WORKS(pith_feed(session, 1, ids, 1, NULL, &error));
    pith_session_free(session);
    pith_model_free(classifier);
    return report("hostile");
}
