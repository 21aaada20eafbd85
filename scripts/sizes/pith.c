/* The least that is of use: a model is opened, a prompt goes in, likeliest tokens come out. */
#include <pith.h>

#include <stdio.h>
#include <string.h>

static int32_t print(void *user, uint32_t id, const char *text, size_t n_bytes) {
    (void)user, (void)id;
    return fwrite(text, 1, n_bytes, stdout) != n_bytes;
}

int main(int argc, char **argv) {
    pith_model *model = NULL;
    pith_session *session = NULL;
    pith_sampling sampling = PITH_SAMPLING_INIT;
    pith_generation generation = PITH_GENERATION_INIT;
    uint32_t ids[512];
    size_t n_ids = 0;
    if (argc < 3) {
        return 2;
    }
    sampling.temp = 0;
    generation.max_tokens = 32;
    generation.sampling = &sampling;
    pith_status status = pith_model_open(argv[1], NULL, &model, NULL);
    if (status == PITH_OK) {
        status = pith_session_new(model, NULL, &session, NULL);
    }
    if (status == PITH_OK) {
        status = pith_tokenize(model, argv[2], strlen(argv[2]), PITH_ADD_BEGIN | PITH_PARSE_SPECIAL,
                               ids, 512, &n_ids, NULL);
    }
    if (status == PITH_OK) {
        status = pith_generate(session, 0, ids, n_ids, &generation, print, NULL, NULL, NULL);
        putchar('\n');
    }
    pith_session_free(session);
    pith_model_free(model);
    return status != PITH_OK;
}
