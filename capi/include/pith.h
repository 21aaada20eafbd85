/* pith: runs a GPT from one GGUF file, in C. The whole face is on this page.
 *
 *   pith_model *model;
 *   pith_session *session;
 *   pith_error error = PITH_ERROR_INIT;
 *   if (pith_model_open("my-gpt.gguf", NULL, &model, &error) != PITH_OK) puts(error.message) ...
 *   if (pith_session_new(model, NULL, &session, &error) != PITH_OK) ...
 *   pith_tokenize(model, "Once upon", 9, PITH_ADD_BEGIN, ids, 64, &n, &error);
 *   pith_generate(session, 0, ids, n, NULL, on_token, NULL, NULL, &error);
 *   pith_session_free(session);
 *   pith_model_free(model);
 *
 * Rules that hold for all functions
 *
 * Errors.    A function that can fail returns a pith_status; the last argument, which may be NULL,
 *            is the caller's own pith_error and says in words what was wrong and what to do; after
 *            success it says PITH_OK. (A message that lay in a model would be another thread's:
 *            models are shared.) Where a function fails, outputs are set to NULL or 0, and sessions
 *            and models are as they were, unless the function's comment says otherwise; logits are
 *            then gone, and arrays to write into hold anything. Nothing aborts, no panic leaves the
 *            library. Callbacks must return: no exceptions, no longjmp.
 * Arguments. NULL where something is needed is PITH_INVALID, as are unknown flags. Options may be
 *            NULL: the defaults. Arrays without elements may be NULL. Text is UTF-8 with a length
 *            in bytes, needs no NUL at its end and may have NULs inside.
 * Structs    begin with struct_size, which the caller sets to sizeof: PITH_..._INIT does. Later
 *            versions append fields; those that a caller doesn't know keep their defaults. A size
 *            that no version had is PITH_INVALID.
 * Memory.    Handles belong to the caller and are freed by the function of their name; NULL may be
 *            freed. A model stays alive until its sessions are freed, in whatever order: handles
 *            count. Weights are read where they lie in the mapped file or in the caller's memory,
 *            never copied. After pith_session_new nothing is allocated by pith_feed, pith_sample,
 *            pith_generate, pith_score, pith_embed, pith_truncate, pith_fork, pith_state_save and
 *            pith_state_load; but the words of an error may be, for a moment.
 * Threads.   A model or an adapter may be used by any number of threads at once. A session is used
 *            by one thread at a time; a second one gets PITH_BUSY, as does a callback that comes
 *            back. pith_cancel alone may be called at any time, from any thread or a signal
 *            handler. With n_threads = 1 no thread is started. The library installs no signal
 *            handlers, prints nothing, reads no environment and has no settings of its own.
 * Results    are the same bits for every n_threads, n_batch and instruction set.
 */
#ifndef PITH_H
#define PITH_H

#include <stddef.h>
#include <stdint.h>

#ifndef PITH_API
#define PITH_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when functions or fields are added. What a client was compiled against keeps working. */
#define PITH_ABI_VERSION 1u

typedef struct pith_model pith_model;
typedef struct pith_adapter pith_adapter;
typedef struct pith_session pith_session;

typedef int32_t pith_status;
enum {
    PITH_OK = 0,
    PITH_INVALID = 1,     /* an argument makes no sense */
    PITH_IO = 2,          /* the system refused something: a file isn't there, a read failed */
    PITH_MALFORMED = 3,   /* a file or a saved state is damaged or hostile */
    PITH_UNSUPPORTED = 4, /* a sound file that this version can't run */
    PITH_MEMORY = 5,      /* over the ceiling, error.needed and error.limit in bytes; or the system
                             has no more, error.limit is 0, error.needed what it refused, or 0 */
    PITH_FULL = 6,        /* a sequence's context is full; error.needed and error.limit in tokens */
    PITH_BUFFER = 7,      /* the caller's buffer is too small; error.needed in its elements */
    PITH_BUSY = 8,        /* another thread is using the session */
    PITH_CANCELLED = 9,   /* by pith_cancel or by a callback */
    PITH_INTERNAL = 10    /* a bug in pith: the session can only be freed. Please report it */
};

typedef struct pith_error {
    size_t struct_size;
    pith_status status;
    int32_t reserved;
    uint64_t needed; /* see PITH_MEMORY, PITH_FULL and PITH_BUFFER; else 0 */
    uint64_t limit;
    char message[512]; /* UTF-8, ends with a NUL; cut where it is longer */
} pith_error;
#define PITH_ERROR_INIT {sizeof(pith_error), PITH_OK, 0, 0, 0, {0}}

/* ---- The library ---- */

/* "0.1.0". Static. */
PITH_API const char *pith_version(void);
/* PITH_ABI_VERSION of the library that is linked; at least that of the header, else it is too old.
 * */
PITH_API uint32_t pith_abi_version(void);
/* A status in two or three words: "out of memory". Static; "unknown status" for others. */
PITH_API const char *pith_status_text(pith_status status);

/* ---- Models ---- */

typedef int32_t pith_log_level;
enum { PITH_LOG_INFO = 0, PITH_LOG_WARNING = 1 };
/* Gets a line without its end. Called on a thread that has called pith. */
typedef void (*pith_log)(void *user, pith_log_level level, const char *text, size_t n_bytes);

enum {
    /* Reads the file into memory instead of mapping it, for file systems whose files change or
     * vanish while they are mapped. The bytes then count as anonymous. */
    PITH_MODEL_READ = 1
};

typedef struct pith_model_options {
    size_t struct_size;
    uint32_t flags; /* PITH_MODEL_... */
    uint32_t reserved;
    uint64_t max_memory; /* ceiling on pith_model_info.anonymous_bytes; 0 is none */
    pith_log log;        /* NULL for none; also hears of the model's sessions */
    void *log_user;
} pith_model_options;
#define PITH_MODEL_OPTIONS_INIT {sizeof(pith_model_options), 0, 0, 0, NULL, NULL}

/* Maps a GGUF file. The file must not be shortened or written into while the model lives: replace
 * it by a rename. path: NUL-terminated, in the system's encoding. PITH_IO, PITH_MALFORMED,
 * PITH_UNSUPPORTED. */
PITH_API pith_status pith_model_open(const char *path, const pith_model_options *options,
                                     pith_model **model, pith_error *error);

/* A GGUF file that lies in memory already (flash, a mapping, an asset). Not copied: the bytes must
 * stay, and stay as they are, until the model and all its sessions are freed. Any alignment will
 * do. */
PITH_API pith_status pith_model_from_memory(const void *data, size_t n_bytes,
                                            const pith_model_options *options, pith_model **model,
                                            pith_error *error);

/* Where a file's bytes come from. */
typedef struct pith_reader {
    size_t struct_size;
    uint64_t n_bytes; /* of the whole file */
    /* Copies n_bytes from offset on into `to`; returns 0, or anything else for a failure. */
    int32_t (*read)(void *user, uint64_t offset, void *to, size_t n_bytes);
    void *user;
} pith_reader;

/* A GGUF file through callbacks, read once into memory before this returns. PITH_IO where read
 * fails. */
PITH_API pith_status pith_model_from_reader(const pith_reader *reader,
                                            const pith_model_options *options, pith_model **model,
                                            pith_error *error);

/* Frees the handle; the model goes with the last of its sessions. */
PITH_API void pith_model_free(pith_model *model);

/* What pith_sample, pith_score, pith_generate and pith_feed need is a language model; a classifier
 * has labels instead. Both embed. */
typedef struct pith_model_info {
    size_t struct_size;
    uint32_t n_vocab;  /* tokens */
    uint32_t n_ctx;    /* most tokens of a sequence, by the model */
    uint32_t n_embd;   /* floats of an embedding */
    uint32_t n_layer;
    uint32_t n_labels; /* 0: no classifier */
    int32_t bos;       /* ids; -1 where the model has none */
    int32_t eos;
    uint32_t flags;           /* PITH_MODEL_INFO_... */
    uint64_t file_bytes;      /* of the file, wherever it is */
    uint64_t anonymous_bytes; /* what the model itself holds: vocabulary, a copy of the file */
    char family[32];          /* "llama", NUL-terminated */
} pith_model_info;
enum {
    PITH_MODEL_INFO_PER_TOKEN = 1,   /* a classifier that labels each token */
    PITH_MODEL_INFO_MULTI_LABEL = 2, /* values of labels are probabilities each for itself */
    PITH_MODEL_INFO_REGRESSION = 4   /* values are no probabilities */
};
#define PITH_MODEL_INFO_INIT {sizeof(pith_model_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0}}
PITH_API pith_status pith_model_get_info(const pith_model *model, pith_model_info *info,
                                         pith_error *error);

/* A classifier's label, NUL-terminated, alive as long as the model. NULL: there is none of this
 * number. */
PITH_API const char *pith_model_label(const pith_model *model, uint32_t label);

/* A LoRA adapter (GGUF), mapped. Whether it fits a model is known when a session is made. */
PITH_API pith_status pith_adapter_open(const char *path, pith_adapter **adapter, pith_error *error);
PITH_API void pith_adapter_free(pith_adapter *adapter);

/* ---- Text and tokens ---- */

enum {
    PITH_ADD_SPECIAL = 1,   /* begin and end as the model wants it: BOS, EOS */
    PITH_PARSE_SPECIAL = 2, /* texts of control tokens mean those tokens: never for a user's text */
    PITH_SHOW_SPECIAL = 4,  /* pith_detokenize: control tokens appear in the text */
    PITH_ADD_BEGIN = 16     /* begin as the model wants it, without an end: a text that goes on */
};

/* Text to ids. *n_ids is their number also where the buffer is too small (PITH_BUFFER): ids may be
 * NULL with capacity 0 to ask. */
PITH_API pith_status pith_tokenize(const pith_model *model, const char *text, size_t n_bytes,
                                   uint32_t flags, uint32_t *ids, size_t capacity, size_t *n_ids,
                                   pith_error *error);

/* Ids to text, without a NUL at the end; bytes that are no UTF-8 become U+FFFD. Capacity as above,
 * in bytes. */
PITH_API pith_status pith_detokenize(const pith_model *model, const uint32_t *ids, size_t n_ids,
                                     uint32_t flags, char *text, size_t capacity, size_t *n_bytes,
                                     pith_error *error);

/* ---- Sessions: sequences that grow ---- */

typedef int32_t pith_cache_type;
enum { PITH_CACHE_F16 = 0, PITH_CACHE_F32 = 1, PITH_CACHE_Q8_0 = 2 };

typedef struct pith_session_options {
    size_t struct_size;
    uint32_t n_ctx;     /* tokens of a sequence; 0: the model's, at most 4096 */
    uint32_t n_seq;     /* sequences, numbered from 0 */
    uint32_t n_batch;   /* tokens of a step: more is faster and takes more memory */
    uint32_t n_threads; /* 0: all cores; at most 1024 */
    pith_cache_type cache;
    uint32_t flags;      /* PITH_SESSION_... */
    uint64_t max_memory; /* ceiling on pith_memory.total; 0 is none */
    const pith_adapter *const *adapters; /* n_adapters of them, added in this order */
    const float *adapter_scales;         /* n_adapters of them, or NULL: 1 */
    size_t n_adapters;
} pith_session_options;
enum { PITH_SESSION_SCORE = 1 /* memory for pith_score and pith_embed */ };
#define PITH_SESSION_OPTIONS_INIT \
    {sizeof(pith_session_options), 0, 1, 128, 0, PITH_CACHE_F16, 0, 0, NULL, NULL, 0}

/* Bytes. */
typedef struct pith_memory {
    size_t struct_size;
    uint64_t file_backed; /* mapped, or the caller's: the system can drop and re-read such pages */
    uint64_t model;       /* anonymous, shared by the model's sessions */
    uint64_t kv;          /* anonymous, of one session, as are the next two */
    uint64_t buffers;
    uint64_t scratch;
    uint64_t total; /* model + kv + buffers + scratch; stacks of threads come on top */
} pith_memory;
#define PITH_MEMORY_INIT {sizeof(pith_memory), 0, 0, 0, 0, 0, 0}

/* What a session with these options would take, before anything is allocated. Also fills `memory`
 * where the answer is PITH_MEMORY: over options->max_memory. */
PITH_API pith_status pith_plan(const pith_model *model, const pith_session_options *options,
                               pith_memory *memory, pith_error *error);

/* Allocates all that its steps need, and starts n_threads - 1 threads. (Rust's standard library
 * ends the process where a system that has just given a block refuses the 48 bytes of a thread's
 * handle: the one case that can't be an error. With n_threads = 1 there is none.) */
PITH_API pith_status pith_session_new(pith_model *model, const pith_session_options *options,
                                      pith_session **session, pith_error *error);
/* Must not be in use: a session that is stays as it is, and its memory is lost. Freed twice is not
 * detected. */
PITH_API void pith_session_free(pith_session *session);

/* Ends the call that is running in the session, or the next one if none is, with PITH_CANCELLED:
 * between two operations of a step, so within milliseconds; pith_generate, once it hands out
 * tokens, between two of them. Calls that run no step don't look. */
PITH_API void pith_cancel(pith_session *session);

/* The tokens of a sequence; borrowed until the next call that changes it. */
PITH_API pith_status pith_tokens(const pith_session *session, uint32_t seq, const uint32_t **ids,
                                 size_t *n_ids, pith_error *error);

/* Appends tokens to a sequence. *logits, where asked for (logits may be NULL): n_vocab floats,
 * those after the last token, borrowed until the next call. On failure the sequence is as it was.
 * PITH_FULL. */
PITH_API pith_status pith_feed(pith_session *session, uint32_t seq, const uint32_t *ids,
                               size_t n_ids, const float **logits, pith_error *error);

/* How the next token is chosen; filters in the order of the fields. */
typedef struct pith_sampling {
    size_t struct_size;
    float repeat_penalty; /* 1 is off */
    uint32_t repeat_last_n;
    uint32_t top_k; /* 0 is off */
    float top_p;    /* 1 is off */
    float min_p;    /* 0 is off */
    float temp;     /* 0: always the likeliest */
    uint64_t seed;
} pith_sampling;
#define PITH_SAMPLING_INIT {sizeof(pith_sampling), 1.0f, 64, 40, 0.95f, 0.05f, 0.8f, 0}

/* Chooses an id by the logits of the last pith_feed or pith_generate, which must have been of this
 * sequence and not have been followed by a change of it, and doesn't append it. sampling: NULL goes
 * on with the options and random numbers of the sequence's last one (at first: the defaults); else
 * begins anew with its seed. */
PITH_API pith_status pith_sample(pith_session *session, uint32_t seq, const pith_sampling *sampling,
                                 uint32_t *id, pith_error *error);

/* Gets each token as it comes, with the text that has become certain by it (maybe none; whole
 * characters only: what is half of one when the text ends is not handed out; no NUL at its end,
 * borrowed for the call). Returns 0 to go on, anything else to cancel. Must not call pith with the
 * same session (PITH_BUSY), but for pith_cancel. */
typedef int32_t (*pith_on_token)(void *user, uint32_t id, const char *text, size_t n_bytes);

typedef struct pith_generation {
    size_t struct_size;
    uint32_t max_tokens; /* 0: until the context is full */
    uint32_t flags;      /* PITH_SHOW_SPECIAL, PITH_IGNORE_EOS */
    const pith_sampling *sampling; /* NULL: the defaults */
} pith_generation;
enum { PITH_IGNORE_EOS = 8 };
#define PITH_GENERATION_INIT {sizeof(pith_generation), 0, 0, NULL}

typedef int32_t pith_finish;
enum {
    PITH_FINISH_EOS = 0,    /* the model said that the text is over; that token isn't handed out */
    PITH_FINISH_LENGTH = 1, /* max_tokens */
    PITH_FINISH_FULL = 2,   /* the context is full */
    PITH_FINISH_CANCELLED = 3
};

typedef struct pith_generated {
    size_t struct_size;
    uint32_t n_prompt; /* tokens of the prompt that were computed: those not held already */
    uint32_t n_tokens; /* tokens that were handed out */
    pith_finish finish;
    int32_t reserved;
} pith_generated;
#define PITH_GENERATED_INIT {sizeof(pith_generated), 0, 0, PITH_FINISH_EOS, 0}

/* The whole loop: makes the sequence hold the prompt (what it holds in common with it is kept),
 * then samples, hands out and appends tokens. on_token and generated may be NULL. PITH_CANCELLED
 * where a callback or pith_cancel ended it: *generated is filled, and what was handed out stays in
 * the sequence; within the prompt, the sequence keeps what it had in common with it. */
PITH_API pith_status pith_generate(pith_session *session, uint32_t seq, const uint32_t *ids,
                                   size_t n_ids, const pith_generation *options,
                                   pith_on_token on_token, void *user, pith_generated *generated,
                                   pith_error *error);

/* Appends tokens to a sequence and says how probable each was: log_probs[i] is
 * ln p(ids[i + 1] | all before), n_ids - 1 of them. Needs PITH_SESSION_SCORE. The sum over a
 * continuation is its log-probability; exp(-mean) is the perplexity. */
PITH_API pith_status pith_score(pith_session *session, uint32_t seq, const uint32_t *ids,
                                size_t n_ids, double *log_probs, pith_error *error);

/* What the classifier's head says of a text: n_rows rows of n_labels values, probabilities or a
 * regression's numbers: one row, or one for each token of a model that labels tokens (*n_rows =
 * n_ids). capacity in floats; *n_rows is right where it is too small (PITH_BUFFER). The sequence
 * holds the text's tokens afterwards and nothing else; where the call is cancelled, the first of
 * them. */
PITH_API pith_status pith_classify(pith_session *session, uint32_t seq, const uint32_t *ids,
                                   size_t n_ids, float *values, size_t capacity, size_t *n_rows,
                                   pith_error *error);

typedef int32_t pith_pooling;
enum {
    PITH_POOL_MEAN = 0, /* of all tokens */
    PITH_POOL_LAST = 1  /* of the last token */
};
/* The model's final hidden state (behind its last norm), pooled over a text's tokens: n_embd
 * floats, which have length 1 if normalize isn't 0. Of a language model it needs
 * PITH_SESSION_SCORE. The sequence holds the text's tokens afterwards and nothing else; where the
 * call is cancelled, nothing. */
PITH_API pith_status pith_embed(pith_session *session, uint32_t seq, const uint32_t *ids,
                                size_t n_ids, pith_pooling pooling, int32_t normalize,
                                float *embedding, pith_error *error);

/* Forgets the tokens of a sequence from position n_ids on. */
PITH_API pith_status pith_truncate(pith_session *session, uint32_t seq, size_t n_ids,
                                   pith_error *error);
/* Makes sequence `to` a copy of `from`, but for its random numbers. */
PITH_API pith_status pith_fork(pith_session *session, uint32_t from, uint32_t to,
                               pith_error *error);

/* A sequence's tokens with their keys and values, into the caller's memory, to be loaded into any
 * session over the same model, adapters and cache type. *n_bytes is the size also where the buffer
 * is too small: state may be NULL with capacity 0 to ask. */
PITH_API pith_status pith_state_save(const pith_session *session, uint32_t seq, void *state,
                                     size_t capacity, size_t *n_bytes, pith_error *error);
/* Makes a sequence what was saved. PITH_MALFORMED where the bytes are damaged or another model's.
 * */
PITH_API pith_status pith_state_load(pith_session *session, uint32_t seq, const void *state,
                                     size_t n_bytes, pith_error *error);

#ifdef __cplusplus
}
#endif

#endif
