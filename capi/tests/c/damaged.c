/* Proves that damaged bytes are errors: model files that are cut off or have bits flipped, from memory and
 * through a reader; readers that fail; saved states damaged at random, also with their hash made good.
 * What opens nonetheless is run. Blocks are of exactly the files' sizes, for valgrind and ASan.
 *
 *   damaged MODEL.gguf ROUNDS */
#include "check.h"

static unsigned char *file;
static size_t n_file;
static uint64_t seed = 88172645463325252u;

/* ---- Model files ---- */

static size_t n_opened, n_sessions;

/* Uses whatever opened, in as little memory as a device would give it. */
static void use(pith_model *model) {
    static const char text[] = "a ship";
    pith_model_info info = PITH_MODEL_INFO_INIT;
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pith_generation generation = PITH_GENERATION_INIT;
    pith_session *session;
    uint32_t ids[32];
    size_t n;
    n_opened++;
    WORKS(pith_model_get_info(model, &info, &error));
    CHECK(memchr(info.family, 0, sizeof info.family) != NULL);
    for (uint32_t i = 0; i < info.n_labels && i < 100; i++) CHECK(pith_model_label(model, i) != NULL);
    if (BEARABLE(pith_tokenize(model, text, sizeof text - 1, PITH_ADD_SPECIAL, ids, 32, &n, &error)) != PITH_OK) {
        n = 0;
    }
    options.n_ctx = 16;
    options.n_batch = 8;
    options.n_threads = 1;
    options.max_memory = 64 << 20;
    if (BEARABLE(pith_session_new(model, &options, &session, &error)) != PITH_OK) return;
    n_sessions++;
    generation.max_tokens = 2;
    BEARABLE(pith_generate(session, 0, ids, n, &generation, NULL, NULL, NULL, &error));
    pith_session_free(session);
}

static void open_and_use(const unsigned char *data, size_t n_bytes) {
    pith_model *model = (pith_model *)&error;
    const pith_status status = BEARABLE(pith_model_from_memory(data, n_bytes, NULL, &model, &error));
    CHECK((model != NULL) == (status == PITH_OK));
    if (status == PITH_OK) use(model);
    pith_model_free(model);
}

static unsigned char *copy_of(size_t n_bytes) {
    unsigned char *data = malloc(n_bytes + !n_bytes);
    if (data == NULL) fatal("malloc");
    memcpy(data, file, n_bytes);
    return data;
}

/* Numbers and names come first in the file, and are where damage does most. */
static size_t somewhere(size_t n_bytes) {
    static const size_t parts[] = {256, 4096, 65536, SIZE_MAX};
    const size_t part = parts[below(&seed, 4)];
    return below(&seed, part < n_bytes ? part : n_bytes);
}

static void cut_off(int rounds) {
    for (int i = 0; i < rounds; i++) {
        const size_t n_bytes = i < 64 ? (size_t)i : somewhere(n_file);
        unsigned char *data = copy_of(n_bytes);
        open_and_use(data, n_bytes);
        free(data);
    }
}

static void flipped(int rounds) {
    unsigned char *data = copy_of(n_file);
    for (int i = 0; i < rounds; i++) {
        size_t places[4];
        const size_t n = 1 + below(&seed, 4);
        for (size_t j = 0; j < n; j++) {
            places[j] = somewhere(n_file);
            data[places[j]] ^= (unsigned char)(1u << below(&seed, 8));
        }
        open_and_use(data, n_file);
        for (size_t j = 0; j < n; j++) data[places[j]] = file[places[j]];
    }
    CHECK(memcmp(data, file, n_file) == 0);
    open_and_use(data, n_file);
    free(data);
}

/* ---- Readers ---- */

static size_t calls_left;

static int32_t failing(void *user, uint64_t offset, void *to, size_t n_bytes) {
    (void)user;
    CHECK(offset <= n_file && n_bytes <= n_file - offset);
    if (calls_left == 0) return -5;
    calls_left--;
    memcpy(to, file + offset, n_bytes);
    return 0;
}

/* Gives other bytes than the file has, at random. */
static int32_t lying(void *user, uint64_t offset, void *to, size_t n_bytes) {
    (void)user;
    memcpy(to, file + offset, n_bytes);
    for (int i = 0; i < 3 && n_bytes > 0; i++) {
        ((unsigned char *)to)[somewhere(n_bytes)] ^= (unsigned char)next_random(&seed);
    }
    return 0;
}

static void readers(int rounds) {
    pith_reader reader = {sizeof reader, n_file, failing, NULL};
    pith_model *model = NULL;
    calls_left = SIZE_MAX;
    WORKS(pith_model_from_reader(&reader, NULL, &model, &error));
    const size_t n_calls = SIZE_MAX - calls_left;
    CHECK(n_calls > 0);
    use(model);
    pith_model_free(model);
    for (size_t i = 0; i < n_calls && i < 50; i++) {
        calls_left = i;
        FAILS(PITH_IO, pith_model_from_reader(&reader, NULL, &model, &error));
        CHECK(model == NULL);
    }
    /* Sizes that no machine has, and a ceiling that says so before anything is read. */
    calls_left = 0;
    reader.n_bytes = UINT64_MAX;
    REFUSED(pith_model_from_reader(&reader, NULL, &model, &error));
    reader.n_bytes = (uint64_t)1 << 62;
    FAILS(PITH_MEMORY, pith_model_from_reader(&reader, NULL, &model, &error));
    reader.n_bytes = n_file;
    pith_model_options options = PITH_MODEL_OPTIONS_INIT;
    options.max_memory = n_file - 1;
    FAILS(PITH_MEMORY, pith_model_from_reader(&reader, &options, &model, &error));
    CHECK(error.needed >= n_file && error.limit == n_file - 1);
    reader.n_bytes = 0;
    REFUSED(pith_model_from_reader(&reader, NULL, &model, &error));
    reader.n_bytes = n_file;
    reader.read = lying;
    for (int i = 0; i < rounds; i++) {
        if (BEARABLE(pith_model_from_reader(&reader, NULL, &model, &error)) == PITH_OK) use(model);
        pith_model_free(model);
    }
}

/* ---- States ---- */

/* The hash at a state's end, FNV-1a: who damages a state on purpose makes it good. */
static void make_good(unsigned char *state, size_t n_bytes) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i + 8 < n_bytes; i++) hash = (hash ^ state[i]) * 0x100000001b3u;
    for (size_t i = 0; i < 8 && n_bytes >= 8; i++) {
        state[n_bytes - 8 + i] = (unsigned char)(hash >> 8 * i);
    }
}

static void states(int rounds) {
    static const char text[] = "She looked at the ship and said";
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pith_model *model;
    pith_session *session;
    uint32_t ids[32];
    size_t n_ids, n_state, n_loaded = 0;
    options.n_ctx = 64;
    options.n_seq = 2;
    options.n_threads = 1;
    WORKS(pith_model_from_memory(file, n_file, NULL, &model, &error));
    WORKS(pith_session_new(model, &options, &session, &error));
    WORKS(pith_tokenize(model, text, sizeof text - 1, 0, ids, 32, &n_ids, &error));
    WORKS(pith_feed(session, 0, ids, n_ids, NULL, &error));
    FAILS(PITH_BUFFER, pith_state_save(session, 0, NULL, 0, &n_state, &error));
    unsigned char *state = malloc(n_state);
    WORKS(pith_state_save(session, 0, state, n_state, &n_state, &error));
    WORKS(pith_feed(session, 1, ids, 2, NULL, &error));
    for (int i = 0; i < rounds; i++) {
        const size_t n_bytes = below(&seed, 4) == 0 ? somewhere(n_state + 1) : n_state;
        unsigned char *damaged = malloc(n_bytes + !n_bytes);
        const int is_good = below(&seed, 2) == 0;
        const uint32_t *held;
        size_t n_held;
        memcpy(damaged, state, n_bytes);
        for (size_t j = 0; j < 1 + below(&seed, 3) && n_bytes > 0; j++) {
            damaged[somewhere(n_bytes)] ^= (unsigned char)(1u << below(&seed, 8));
        }
        if (is_good) make_good(damaged, n_bytes);
        if (BEARABLE(pith_state_load(session, 1, damaged, n_bytes, &error)) == PITH_OK) {
            CHECK(is_good || memcmp(damaged, state, n_state) == 0);
            n_loaded++;
            const uint32_t next = ids[0];
            BEARABLE(pith_feed(session, 1, &next, 1, NULL, &error));
            WORKS(pith_truncate(session, 1, 0, &error));
            WORKS(pith_feed(session, 1, ids, 2, NULL, &error));
        } else {
            WORKS(pith_tokens(session, 1, &held, &n_held, &error));
            CHECK(n_held == 2 && held[0] == ids[0] && held[1] == ids[1]);
        }
        free(damaged);
    }
    CHECK(n_loaded > 0);
    /* Undamaged it is what it was. */
    WORKS(pith_state_load(session, 1, state, n_state, &error));
    unsigned char *again = malloc(n_state);
    WORKS(pith_state_save(session, 1, again, n_state, &n_state, &error));
    CHECK(memcmp(state, again, n_state) == 0);
    free(again);
    free(state);
    pith_session_free(session);
    pith_model_free(model);
}

int main(int argc, char **argv) {
    if (argc != 3) fatal("wanted a model and a number of rounds");
    const int rounds = atoi(argv[2]);
    file = read_file(argv[1], &n_file);
    cut_off(rounds);
    flipped(rounds);
    readers(rounds / 4);
    states(rounds);
    printf("damaged: %lu files opened nonetheless, %lu of them ran\n", (unsigned long)n_opened,
           (unsigned long)n_sessions);
    free(file);
    return report("damaged");
}
