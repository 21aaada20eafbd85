/* Proves that a client of the first header still runs: it is compiled against that header as it was, byte
 * for byte, and linked with the present shared library. It uses all functions, and is also a client from
 * the future, whose structs are longer than this library knows: their tails are zeros, and stay so.
 *
 *   abi_1 LANGUAGE-MODEL.gguf CLASSIFIER.gguf ADAPTER.gguf */
#include "pith_abi_1.h" /* and so not <pith.h>, which has the same guard */
#include "check.h"

static pith_model *model;
static size_t n_logged;

static void log_line(void *user, pith_log_level level, const char *text, size_t n_bytes) {
    CHECK(user == &n_logged && text != NULL && n_bytes > 0);
    CHECK(level == PITH_LOG_INFO || level == PITH_LOG_WARNING);
    n_logged++;
}

static int32_t on_token(void *user, uint32_t id, const char *text, size_t n_bytes) {
    uint32_t *last = user;
    (void)text, (void)n_bytes;
    *last = id;
    return 0;
}

/* ---- All functions, as their first comments have them ---- */

static int32_t read_bytes(void *user, uint64_t offset, void *to, size_t n_bytes) {
    memcpy(to, (const unsigned char *)user + offset, n_bytes);
    return 0;
}

static void models(const char *path) {
    size_t n_bytes;
    unsigned char *data = read_file(path, &n_bytes);
    pith_model_options options = PITH_MODEL_OPTIONS_INIT;
    pith_reader reader = {sizeof reader, 0, read_bytes, NULL};
    pith_model_info mapped = PITH_MODEL_INFO_INIT, lent = PITH_MODEL_INFO_INIT, read = PITH_MODEL_INFO_INIT;
    pith_model *other;
    reader.n_bytes = n_bytes;
    reader.user = data;
    options.log = log_line;
    options.log_user = &n_logged;
    WORKS(pith_model_open(path, &options, &model, &error));
    WORKS(pith_model_get_info(model, &mapped, &error));
    CHECK(mapped.file_bytes == n_bytes && mapped.n_vocab > 0 && mapped.n_layer > 0);
    WORKS(pith_model_from_memory(data, n_bytes, NULL, &other, &error));
    WORKS(pith_model_get_info(other, &lent, &error));
    CHECK(lent.anonymous_bytes == mapped.anonymous_bytes && lent.n_embd == mapped.n_embd);
    pith_model_free(other);
    WORKS(pith_model_from_reader(&reader, NULL, &other, &error));
    WORKS(pith_model_get_info(other, &read, &error));
    CHECK(read.anonymous_bytes >= mapped.anonymous_bytes + n_bytes);
    pith_model_free(other);
    options.flags = PITH_MODEL_READ;
    WORKS(pith_model_open(path, &options, &other, &error));
    pith_model_free(other);
    free(data);
}

static void language(void) {
    static const char text[] = "She looked at the ship and said";
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pith_memory memory = PITH_MEMORY_INIT;
    pith_sampling sampling = PITH_SAMPLING_INIT;
    pith_generation generation = PITH_GENERATION_INIT;
    pith_generated generated = PITH_GENERATED_INIT;
    pith_model_info info = PITH_MODEL_INFO_INIT;
    pith_session *session;
    uint32_t ids[64], id, last = UINT32_MAX;
    const uint32_t *held;
    const float *logits;
    double log_probs[64];
    char again[64];
    size_t n_ids, n;
    options.n_ctx = 64;
    options.n_seq = 2;
    options.flags = PITH_SESSION_SCORE;
    WORKS(pith_model_get_info(model, &info, &error));
    float *embedding = malloc(info.n_embd * sizeof *embedding);
    WORKS(pith_tokenize(model, text, sizeof text - 1, 0, ids, 64, &n_ids, &error));
    WORKS(pith_detokenize(model, ids, n_ids, PITH_SHOW_SPECIAL, again, sizeof again, &n, &error));
    CHECK(n == sizeof text - 1 && memcmp(text, again, n) == 0);
    WORKS(pith_plan(model, &options, &memory, &error));
    CHECK(memory.total == memory.model + memory.kv + memory.buffers + memory.scratch);
    CHECK(memory.file_backed == info.file_bytes && memory.model == info.anonymous_bytes);
    options.max_memory = memory.total;
    WORKS(pith_session_new(model, &options, &session, &error));
    WORKS(pith_feed(session, 0, ids, n_ids, &logits, &error));
    sampling.temp = 0;
    WORKS(pith_sample(session, 0, &sampling, &id, &error));
    for (uint32_t i = 0; i < info.n_vocab; i++) CHECK(logits[i] <= logits[id]);
    generation.max_tokens = 1;
    generation.flags = PITH_IGNORE_EOS;
    generation.sampling = &sampling;
    WORKS(pith_generate(session, 1, ids, n_ids, &generation, on_token, &last, &generated, &error));
    CHECK(last == id && generated.n_tokens == 1 && generated.n_prompt == n_ids);
    WORKS(pith_truncate(session, 0, 2, &error));
    WORKS(pith_fork(session, 0, 1, &error));
    WORKS(pith_score(session, 1, ids + 2, n_ids - 2, log_probs, &error));
    WORKS(pith_tokens(session, 1, &held, &n, &error));
    CHECK(n == n_ids && memcmp(held, ids, n * sizeof *held) == 0);
    WORKS(pith_embed(session, 0, ids, n_ids, PITH_POOL_LAST, 1, embedding, &error));
    FAILS(PITH_BUFFER, pith_state_save(session, 1, NULL, 0, &n, &error));
    unsigned char *state = malloc(n);
    WORKS(pith_state_save(session, 1, state, n, &n, &error));
    WORKS(pith_state_load(session, 0, state, n, &error));
    pith_cancel(session);
    FAILS(PITH_CANCELLED, pith_feed(session, 0, ids, 1, NULL, &error));
    free(state);
    free(embedding);
    pith_session_free(session);
}

static void labels(const char *path) {
    pith_model *classifier;
    pith_session *session;
    pith_model_info info = PITH_MODEL_INFO_INIT;
    uint32_t ids[64];
    float values[64], sum = 0;
    size_t n_ids, n_rows;
    WORKS(pith_model_open(path, NULL, &classifier, &error));
    WORKS(pith_model_get_info(classifier, &info, &error));
    CHECK(info.n_labels > 1 && info.n_labels < 64);
    WORKS(pith_session_new(classifier, NULL, &session, &error));
    WORKS(pith_tokenize(classifier, "good", 4, 0, ids, 64, &n_ids, &error));
    WORKS(pith_classify(session, 0, ids, n_ids, values, 64, &n_rows, &error));
    CHECK(n_rows == 1);
    for (uint32_t i = 0; i < info.n_labels; i++) {
        CHECK(pith_model_label(classifier, i) != NULL);
        sum += values[i];
    }
    CHECK(sum > 0.999f && sum < 1.001f);
    pith_model_free(classifier); /* the session keeps the model */
    WORKS(pith_classify(session, 0, ids, n_ids, values, 64, &n_rows, &error));
    pith_session_free(session);
}

static void adapters(const char *path) {
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pith_adapter *adapter;
    pith_session *plain, *adapted, *undone;
    const uint32_t prompt[] = {5, 6, 7};
    const float *logits[3];
    const float none = 0;
    pith_model_info info = PITH_MODEL_INFO_INIT;
    WORKS(pith_model_get_info(model, &info, &error));
    const size_t n_bytes = info.n_vocab * sizeof(float);
    WORKS(pith_session_new(model, &options, &plain, &error));
    WORKS(pith_adapter_open(path, &adapter, &error));
    options.adapters = (const pith_adapter *const *)&adapter;
    options.n_adapters = 1;
    WORKS(pith_session_new(model, &options, &adapted, &error));
    options.adapter_scales = &none;
    WORKS(pith_session_new(model, &options, &undone, &error));
    pith_adapter_free(adapter); /* the sessions keep it */
    WORKS(pith_feed(plain, 0, prompt, 3, &logits[0], &error));
    WORKS(pith_feed(adapted, 0, prompt, 3, &logits[1], &error));
    WORKS(pith_feed(undone, 0, prompt, 3, &logits[2], &error));
    CHECK(memcmp(logits[0], logits[1], n_bytes) != 0);
    CHECK(memcmp(logits[0], logits[2], n_bytes) == 0);
    pith_session_free(plain);
    pith_session_free(adapted);
    pith_session_free(undone);
}

/* ---- A client from the future ---- */

/* A struct with more behind it than this library knows. */
#define LONGER(type) \
    struct {         \
        type now;    \
        char later[72]; \
    }

static int is_zero(const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != 0) return 0;
    }
    return 1;
}

static void longer_structs(const char *path) {
    LONGER(pith_model_options) model_options = {PITH_MODEL_OPTIONS_INIT, {0}};
    LONGER(pith_model_info) info = {PITH_MODEL_INFO_INIT, {0}};
    LONGER(pith_session_options) options = {PITH_SESSION_OPTIONS_INIT, {0}};
    LONGER(pith_memory) memory = {PITH_MEMORY_INIT, {0}};
    LONGER(pith_sampling) sampling = {PITH_SAMPLING_INIT, {0}};
    LONGER(pith_generation) generation = {PITH_GENERATION_INIT, {0}};
    LONGER(pith_generated) generated = {PITH_GENERATED_INIT, {0}};
    LONGER(pith_error) told = {PITH_ERROR_INIT, {0}};
    pith_model *other;
    pith_session *session;
    const uint32_t prompt[] = {5, 6, 7};
    uint32_t id;
    model_options.now.struct_size = sizeof model_options;
    info.now.struct_size = sizeof info;
    options.now.struct_size = sizeof options;
    memory.now.struct_size = sizeof memory;
    sampling.now.struct_size = sizeof sampling;
    generation.now.struct_size = sizeof generation;
    generated.now.struct_size = sizeof generated;
    told.now.struct_size = sizeof told;
    options.now.n_ctx = 32;
    generation.now.max_tokens = 2;
    generation.now.flags = PITH_IGNORE_EOS;
    generation.now.sampling = &sampling.now;
    CHECK(pith_model_open(path, &model_options.now, &other, &told.now) == PITH_OK);
    CHECK(pith_model_get_info(other, &info.now, &told.now) == PITH_OK);
    CHECK(info.now.n_vocab > 0 && info.now.struct_size == sizeof info);
    CHECK(pith_plan(other, &options.now, &memory.now, &told.now) == PITH_OK);
    CHECK(memory.now.total > 0 && memory.now.struct_size == sizeof memory);
    CHECK(pith_session_new(other, &options.now, &session, &told.now) == PITH_OK);
    CHECK(pith_generate(session, 0, prompt, 3, &generation.now, NULL, NULL, &generated.now, &told.now) == PITH_OK);
    CHECK(generated.now.n_tokens == 2 && generated.now.struct_size == sizeof generated);
    CHECK(pith_feed(session, 0, prompt, 3, NULL, &told.now) == PITH_OK);
    CHECK(pith_sample(session, 0, &sampling.now, &id, &told.now) == PITH_OK);
    CHECK(pith_feed(session, 0, NULL, 1, NULL, &told.now) == PITH_INVALID);
    CHECK(told.now.status == PITH_INVALID && told.now.message[0] != 0);
    CHECK(is_zero(info.later, 72) && is_zero(memory.later, 72) && is_zero(generated.later, 72));
    CHECK(is_zero(told.later, 72) && told.now.struct_size == sizeof told);
    pith_session_free(session);
    pith_model_free(other);
}

int main(int argc, char **argv) {
    if (argc != 4) fatal("wanted a language model, a classifier and an adapter");
    CHECK(pith_abi_version() >= PITH_ABI_VERSION);
    CHECK(pith_version()[0] != 0 && pith_status_text(PITH_OK)[0] != 0);
    models(argv[1]);
    if (n_failed > 0) return report("abi_1");
    language();
    labels(argv[2]);
    adapters(argv[3]);
    longer_structs(argv[1]);
    pith_model_free(model);
    return report("abi_1");
}
