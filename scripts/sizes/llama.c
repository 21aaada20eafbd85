/* What llama.cpp takes to do what pith.c does: the same program over its C API. */
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc < 3) {
        return 2;
    }
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        return 1;
    }
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    struct llama_context *context = llama_init_from_model(model, llama_context_default_params());
    llama_token ids[512];
    int n = llama_tokenize(vocab, argv[2], (int)strlen(argv[2]), ids, 512, true, true);
    if (!context || n < 1) {
        return 1;
    }
    struct llama_sampler *greedy = llama_sampler_init_greedy();
    struct llama_batch batch = llama_batch_get_one(ids, n);
    for (int i = 0; i < 32 && llama_decode(context, batch) == 0; i++) {
        llama_token id = llama_sampler_sample(greedy, context, -1);
        if (llama_vocab_is_eog(vocab, id)) {
            break;
        }
        char text[256];
        int length = llama_token_to_piece(vocab, id, text, sizeof text, 0, false);
        fwrite(text, 1, length > 0 ? (size_t)length : 0, stdout);
        ids[0] = id;
        batch = llama_batch_get_one(ids, 1);
    }
    putchar('\n');
    llama_sampler_free(greedy);
    llama_free(context);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
