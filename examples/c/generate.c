/* Continues a prompt, and writes the text as it comes; Ctrl-C ends it.
 *
 *   generate MODEL.gguf PROMPT [N_TOKENS [TEMPERATURE [SEED]]]
 *
 * Without a temperature it prints what `pith run MODEL.gguf --prompt PROMPT -n N_TOKENS --temp 0` does. */
#include <pith.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pith_session *session;

static void interrupt(int number) {
    (void)number;
    pith_cancel(session);
}

/* Any other answer than 0 ends the text: here where nobody reads on. */
static int32_t print(void *user, uint32_t id, const char *text, size_t n_bytes) {
    (void)user, (void)id;
    return fwrite(text, 1, n_bytes, stdout) != n_bytes || fflush(stdout) != 0;
}

static pith_status run(int argc, char **argv, pith_model *model, pith_error *error) {
    pith_model_info info = PITH_MODEL_INFO_INIT;
    pith_status status = pith_model_get_info(model, &info, error);
    if (status != PITH_OK) return status;
    status = pith_session_new(model, NULL, &session, error);
    if (status != PITH_OK) return status;

    size_t n_ids = 0;
    uint32_t *ids = malloc(info.n_ctx * sizeof *ids); /* a longer prompt couldn't be run */
    if (ids == NULL) return PITH_MEMORY;
    status = pith_tokenize(model, argv[2], strlen(argv[2]), PITH_ADD_BEGIN | PITH_PARSE_SPECIAL,
                           ids, info.n_ctx, &n_ids, error);
    if (status == PITH_OK) {
        pith_sampling sampling = PITH_SAMPLING_INIT;
        pith_generation generation = PITH_GENERATION_INIT;
        sampling.temp = argc > 4 ? (float)atof(argv[4]) : 0;
        sampling.seed = argc > 5 ? strtoull(argv[5], NULL, 10) : 0;
        generation.max_tokens = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 100;
        generation.sampling = &sampling;
        signal(SIGINT, interrupt);
        status = pith_generate(session, 0, ids, n_ids, &generation, print, NULL, NULL, error);
        signal(SIGINT, SIG_DFL);
        putchar('\n');
    }
    free(ids);
    return status;
}

int main(int argc, char **argv) {
    pith_error error = PITH_ERROR_INIT;
    pith_model *model = NULL;
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL.gguf PROMPT [N_TOKENS [TEMPERATURE [SEED]]]\n", argv[0]);
        return 2;
    }
    pith_status status = pith_model_open(argv[1], NULL, &model, &error);
    if (status == PITH_OK) status = run(argc, argv, model, &error);
    if (status != PITH_OK) {
        fprintf(stderr, "%s: %s\n", pith_status_text(status), error.message);
    }
    pith_session_free(session);
    pith_model_free(model);
    return status != PITH_OK;
}
