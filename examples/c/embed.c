/* Embeds the lines of standard input: a line of numbers each, in 64 MiB of memory or not at all.
 *
 *   embed MODEL.gguf < TEXTS.txt
 *
 * The weights are no part of the budget: they stay in the mapped file, whose pages the system can drop. */
#include <pith.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t BUDGET = 64 << 20;
enum { MOST_BYTES = 4096, MOST_IDS = 512 };

static double mib(uint64_t bytes) {
    return (double)bytes / (1 << 20);
}

/* What the session would take, before anything is allocated; printed also where it is too much. */
static pith_status plan(const pith_model *model, const pith_session_options *options, pith_error *error) {
    pith_memory memory = PITH_MEMORY_INIT;
    pith_status status = pith_plan(model, options, &memory, error);
    fprintf(stderr,
            "%.1f MiB mapped; of a budget of %.1f: model %.1f, context %.1f, buffers %.1f, scratch "
            "%.1f, in all %.1f MiB\n",
            mib(memory.file_backed), mib(BUDGET), mib(memory.model), mib(memory.kv),
            mib(memory.buffers), mib(memory.scratch), mib(memory.total));
    return status;
}

static pith_status embed_lines(pith_session *session, const pith_model *model, uint32_t n_embd,
                               float *embedding, pith_error *error) {
    char line[MOST_BYTES];
    uint32_t ids[MOST_IDS];
    size_t n_ids;
    while (fgets(line, sizeof line, stdin) != NULL) {
        const size_t n_bytes = strcspn(line, "\r\n");
        pith_status status =
            pith_tokenize(model, line, n_bytes, PITH_ADD_SPECIAL, ids, MOST_IDS, &n_ids, error);
        if (status == PITH_OK) {
            status = pith_embed(session, 0, ids, n_ids, PITH_POOL_MEAN, 1, embedding, error);
        }
        if (status != PITH_OK) return status;
        for (uint32_t i = 0; i < n_embd; i++) printf(i == 0 ? "%.6f" : " %.6f", embedding[i]);
        putchar('\n');
    }
    return PITH_OK;
}

static pith_status run(pith_model *model, pith_error *error) {
    pith_model_info info = PITH_MODEL_INFO_INIT;
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pith_session *session = NULL;
    pith_status status = pith_model_get_info(model, &info, error);
    if (status != PITH_OK) return status;

    options.n_ctx = info.n_ctx < MOST_IDS ? info.n_ctx : MOST_IDS;
    options.n_threads = 1;
    options.flags = PITH_SESSION_SCORE;
    options.max_memory = BUDGET;
    status = plan(model, &options, error);
    if (status == PITH_OK) status = pith_session_new(model, &options, &session, error);
    if (status != PITH_OK) return status;

    float *embedding = malloc(info.n_embd * sizeof *embedding);
    status = embedding == NULL ? PITH_MEMORY : embed_lines(session, model, info.n_embd, embedding, error);
    free(embedding);
    pith_session_free(session);
    return status;
}

int main(int argc, char **argv) {
    pith_error error = PITH_ERROR_INIT;
    pith_model_options options = PITH_MODEL_OPTIONS_INIT;
    pith_model *model = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL.gguf < TEXTS.txt\n", argv[0]);
        return 2;
    }
    options.max_memory = BUDGET;
    pith_status status = pith_model_open(argv[1], &options, &model, &error);
    if (status == PITH_OK) status = run(model, &error);
    if (status == PITH_MEMORY) {
        fprintf(stderr, "%llu bytes needed, %llu allowed\n", (unsigned long long)error.needed,
                (unsigned long long)error.limit);
    }
    if (status != PITH_OK) {
        fprintf(stderr, "%s: %s\n", pith_status_text(status), error.message);
    }
    pith_model_free(model);
    return status != PITH_OK;
}
