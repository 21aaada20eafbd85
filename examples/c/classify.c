/* Labels the lines of a file, one line of output each: text, label, probability.
 *
 *   classify CLASSIFIER.gguf WORDS.txt                 a model that ends in a classification head
 *   classify LANGUAGE-MODEL.gguf WORDS.txt LABEL...    any other: how probable is each label behind the text? */
#include <pith.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BYTES = 4096, MOST_IDS = 512, MOST_LABELS = 256 };

static pith_status tokenize(const pith_model *model, const char *text, uint32_t flags, uint32_t *ids,
                            size_t *n_ids, pith_error *error) {
    return pith_tokenize(model, text, strlen(text), flags, ids, MOST_IDS, n_ids, error);
}

static pith_status invalid(const char *what, pith_error *error) {
    snprintf(error->message, sizeof error->message, "%s", what);
    return PITH_INVALID;
}

/* What the head says: its labels' values. */
static pith_status by_head(pith_session *session, const pith_model *model, const char *text,
                           float *values, pith_error *error) {
    uint32_t ids[MOST_IDS];
    size_t n_ids, n_rows;
    pith_status status = tokenize(model, text, PITH_ADD_SPECIAL, ids, &n_ids, error);
    if (status != PITH_OK) return status;
    return pith_classify(session, 0, ids, n_ids, values, MOST_LABELS, &n_rows, error);
}

/* ln p(label | text), where sequence 0 holds the text's n_text tokens but the last, which is run again with
 * each label: what follows it is the label's first. */
static pith_status log_prob(pith_session *session, const pith_model *model, const char *text,
                            size_t n_text, const char *label, double *sum, pith_error *error) {
    char whole[2 * MOST_BYTES];
    uint32_t ids[MOST_IDS];
    double log_probs[MOST_IDS];
    size_t n_ids;
    snprintf(whole, sizeof whole, "%s %s", text, label);
    pith_status status = tokenize(model, whole, PITH_ADD_BEGIN, ids, &n_ids, error);
    if (status == PITH_OK) status = pith_fork(session, 0, 1, error);
    if (status != PITH_OK) return status;
    if (n_ids <= n_text) return invalid("a label without a token of its own", error);
    status = pith_score(session, 1, ids + n_text - 1, n_ids - n_text + 1, log_probs, error);
    *sum = 0;
    for (size_t i = 0; i < n_ids - n_text && status == PITH_OK; i++) *sum += log_probs[i];
    return status;
}

/* How the labels share what probability they have behind the text. The text is run once, each label behind
 * a copy of it. */
static pith_status by_score(pith_session *session, const pith_model *model, const char *text,
                            int n_labels, char **labels, float *values, pith_error *error) {
    uint32_t ids[MOST_IDS];
    size_t n_ids;
    double sums[MOST_LABELS], all = 0;
    pith_status status = tokenize(model, text, PITH_ADD_BEGIN, ids, &n_ids, error);
    if (status != PITH_OK) return status;
    if (n_ids == 0) return invalid("an empty line", error);
    status = pith_truncate(session, 0, 0, error);
    if (status == PITH_OK && n_ids > 1) status = pith_feed(session, 0, ids, n_ids - 1, NULL, error);
    for (int i = 0; i < n_labels && status == PITH_OK; i++) {
        status = log_prob(session, model, text, n_ids, labels[i], &sums[i], error);
        if (status == PITH_OK) all += exp(sums[i]);
    }
    for (int i = 0; i < n_labels && status == PITH_OK; i++) values[i] = (float)(exp(sums[i]) / all);
    return status;
}

static pith_status run(pith_model *model, FILE *words, int n_labels, char **labels, pith_error *error) {
    static float values[MOST_LABELS];
    pith_model_info info = PITH_MODEL_INFO_INIT;
    pith_session_options options = PITH_SESSION_OPTIONS_INIT;
    pith_session *session = NULL;
    pith_status status = pith_model_get_info(model, &info, error);
    if (status != PITH_OK) return status;
    const int has_head = info.n_labels > 0;
    if (has_head) n_labels = (int)info.n_labels;
    if (n_labels < 1 || n_labels > MOST_LABELS || info.flags & PITH_MODEL_INFO_PER_TOKEN) {
        return invalid("wanted a model that classifies whole texts, or some labels", error);
    }
    options.n_ctx = info.n_ctx < MOST_IDS ? info.n_ctx : MOST_IDS;
    options.n_seq = has_head ? 1 : 2;
    options.flags = has_head ? 0 : PITH_SESSION_SCORE;
    options.cache = has_head ? PITH_CACHE_F32 : PITH_CACHE_F16; /* as the command does */
    status = pith_session_new(model, &options, &session, error);

    char line[MOST_BYTES];
    while (status == PITH_OK && fgets(line, sizeof line, words) != NULL) {
        line[strcspn(line, "\r\n")] = 0;
        status = has_head ? by_head(session, model, line, values, error)
                          : by_score(session, model, line, n_labels, labels, values, error);
        int best = 0;
        for (int i = 1; i < n_labels; i++) best = values[i] > values[best] ? i : best;
        const char *label = has_head ? pith_model_label(model, (uint32_t)best) : labels[best];
        if (status == PITH_OK) printf("%s\t%s\t%.6f\n", line, label, values[best]);
    }
    pith_session_free(session);
    return status;
}

int main(int argc, char **argv) {
    pith_error error = PITH_ERROR_INIT;
    pith_model *model = NULL;
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL.gguf WORDS.txt [LABEL...]\n", argv[0]);
        return 2;
    }
    FILE *words = fopen(argv[2], "r");
    if (words == NULL) {
        perror(argv[2]);
        return 1;
    }
    pith_status status = pith_model_open(argv[1], NULL, &model, &error);
    if (status == PITH_OK) status = run(model, words, argc - 3, argv + 3, &error);
    if (status != PITH_OK) {
        fprintf(stderr, "%s: %s\n", pith_status_text(status), error.message);
    }
    pith_model_free(model);
    fclose(words);
    return status != PITH_OK;
}
