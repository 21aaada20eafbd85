// generate.c in C++: handles that free themselves, and errors as exceptions.
//
//   generate MODEL.gguf PROMPT [N_TOKENS [TEMPERATURE [SEED]]]
#include <pith.h>

#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace pith {

struct Free {
    void operator()(pith_model *model) const { pith_model_free(model); }
    void operator()(pith_session *session) const { pith_session_free(session); }
};
using Model = std::unique_ptr<pith_model, Free>;
using Session = std::unique_ptr<pith_session, Free>;

/// Passed where pith wants a place for an error; `check(pith_...(..., error))` then throws it.
struct Error : pith_error {
    Error() : pith_error(PITH_ERROR_INIT) {}
    void check(pith_status status) const {
        if (status != PITH_OK) throw std::runtime_error(std::string(pith_status_text(status)) + ": " + message);
    }
};

}  // namespace pith

// No exception may pass through pith: it was compiled by another language.
static int32_t print(void *, uint32_t, const char *text, size_t n_bytes) noexcept {
    return std::cout.write(text, std::streamsize(n_bytes)).flush() ? 0 : 1;
}

static void run(const std::vector<std::string> &args) {
    pith::Error error;

    pith_model *opened = nullptr;
    error.check(pith_model_open(args[0].c_str(), nullptr, &opened, &error));
    const pith::Model model(opened);

    pith_session *made = nullptr;
    error.check(pith_session_new(model.get(), nullptr, &made, &error));
    const pith::Session session(made);

    pith_model_info info = PITH_MODEL_INFO_INIT;
    error.check(pith_model_get_info(model.get(), &info, &error));
    std::vector<uint32_t> ids(info.n_ctx);
    size_t n_ids = 0;
    error.check(pith_tokenize(model.get(), args[1].data(), args[1].size(),
                              PITH_ADD_BEGIN | PITH_PARSE_SPECIAL, ids.data(), ids.size(), &n_ids,
                              &error));

    pith_sampling sampling = PITH_SAMPLING_INIT;
    sampling.temp = args.size() > 3 ? std::stof(args[3]) : 0;
    sampling.seed = args.size() > 4 ? std::stoull(args[4]) : 0;
    pith_generation generation = PITH_GENERATION_INIT;
    generation.max_tokens = args.size() > 2 ? uint32_t(std::stoul(args[2])) : 100;
    generation.sampling = &sampling;
    error.check(pith_generate(session.get(), 0, ids.data(), n_ids, &generation, print, nullptr,
                              nullptr, &error));
    std::cout << '\n';
}

int main(int argc, char **argv) {
    if (argc < 3) {
        std::cerr << "usage: " << argv[0] << " MODEL.gguf PROMPT [N_TOKENS [TEMPERATURE [SEED]]]\n";
        return 2;
    }
    try {
        run(std::vector<std::string>(argv + 1, argv + argc));
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
