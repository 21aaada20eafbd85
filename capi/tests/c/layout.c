/* Proves where the fields of the first header's structs lie on 64-bit machines: compiled against that
 * header as it was (-DFROZEN) and against the present one, whose structs may only have grown at their
 * ends. There is nothing to run. */
#ifdef FROZEN
#include "pith_abi_1.h"
#define FITS(size, wanted) ((size) == (wanted))
#else
#include <pith.h>
#define FITS(size, wanted) ((size) >= (wanted))
#endif

#define FIELD(type, field, wanted) \
    typedef char type##_##field##_lies_at[offsetof(type, field) == (wanted) ? 1 : -1];
#define SIZE(type, wanted) typedef char type##_is[FITS(sizeof(type), (wanted)) ? 1 : -1];

FIELD(pith_error, struct_size, 0)
FIELD(pith_error, status, 8)
FIELD(pith_error, reserved, 12)
FIELD(pith_error, needed, 16)
FIELD(pith_error, limit, 24)
FIELD(pith_error, message, 32)
SIZE(pith_error, 544)

FIELD(pith_model_options, struct_size, 0)
FIELD(pith_model_options, flags, 8)
FIELD(pith_model_options, reserved, 12)
FIELD(pith_model_options, max_memory, 16)
FIELD(pith_model_options, log, 24)
FIELD(pith_model_options, log_user, 32)
SIZE(pith_model_options, 40)

FIELD(pith_reader, struct_size, 0)
FIELD(pith_reader, n_bytes, 8)
FIELD(pith_reader, read, 16)
FIELD(pith_reader, user, 24)
SIZE(pith_reader, 32)

FIELD(pith_model_info, struct_size, 0)
FIELD(pith_model_info, n_vocab, 8)
FIELD(pith_model_info, n_ctx, 12)
FIELD(pith_model_info, n_embd, 16)
FIELD(pith_model_info, n_layer, 20)
FIELD(pith_model_info, n_labels, 24)
FIELD(pith_model_info, bos, 28)
FIELD(pith_model_info, eos, 32)
FIELD(pith_model_info, flags, 36)
FIELD(pith_model_info, file_bytes, 40)
FIELD(pith_model_info, anonymous_bytes, 48)
FIELD(pith_model_info, family, 56)
SIZE(pith_model_info, 88)

FIELD(pith_session_options, struct_size, 0)
FIELD(pith_session_options, n_ctx, 8)
FIELD(pith_session_options, n_seq, 12)
FIELD(pith_session_options, n_batch, 16)
FIELD(pith_session_options, n_threads, 20)
FIELD(pith_session_options, cache, 24)
FIELD(pith_session_options, flags, 28)
FIELD(pith_session_options, max_memory, 32)
FIELD(pith_session_options, adapters, 40)
FIELD(pith_session_options, adapter_scales, 48)
FIELD(pith_session_options, n_adapters, 56)
SIZE(pith_session_options, 64)

FIELD(pith_memory, struct_size, 0)
FIELD(pith_memory, file_backed, 8)
FIELD(pith_memory, model, 16)
FIELD(pith_memory, kv, 24)
FIELD(pith_memory, buffers, 32)
FIELD(pith_memory, scratch, 40)
FIELD(pith_memory, total, 48)
SIZE(pith_memory, 56)

FIELD(pith_sampling, struct_size, 0)
FIELD(pith_sampling, repeat_penalty, 8)
FIELD(pith_sampling, repeat_last_n, 12)
FIELD(pith_sampling, top_k, 16)
FIELD(pith_sampling, top_p, 20)
FIELD(pith_sampling, min_p, 24)
FIELD(pith_sampling, temp, 28)
FIELD(pith_sampling, seed, 32)
SIZE(pith_sampling, 40)

FIELD(pith_generation, struct_size, 0)
FIELD(pith_generation, max_tokens, 8)
FIELD(pith_generation, flags, 12)
FIELD(pith_generation, sampling, 16)
SIZE(pith_generation, 24)

FIELD(pith_generated, struct_size, 0)
FIELD(pith_generated, n_prompt, 8)
FIELD(pith_generated, n_tokens, 12)
FIELD(pith_generated, finish, 16)
FIELD(pith_generated, reserved, 20)
SIZE(pith_generated, 24)

typedef char status_is_32_bits[sizeof(pith_status) == 4 ? 1 : -1];
