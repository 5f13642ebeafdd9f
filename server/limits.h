#pragma once
// The limits of one request (reference: reliability.md 1.1). Checked in validate.cc; every one has
// its L-1, L, L+1 rows in openai_parse_test.cc.

#include <cstddef>
#include <cstdint>

#include "base/clock.h"

namespace millrace::server {

struct Limits {
  int64_t choices_max = 128;  // n, and n times the number of prompts
  int64_t prompts_max = 128;
  int64_t logprobs_max = 20;
  int64_t prompt_logprobs_max = 20;
  size_t logit_bias_max = 1024;
  size_t stop_strings_max = 16;  // the OpenAI door takes 4
  size_t stop_string_bytes_max = 256;
  size_t stop_token_ids_max = 128;
  size_t messages_max = 2048;
  size_t content_parts_max = 4096;  // over all messages
  size_t template_kwargs_max = 64;
  size_t template_kwargs_bytes_max = 16 << 10;
  size_t cache_salt_max = 128;
  size_t request_id_max = 512;
  size_t body_bytes_max = 8 << 20;
  size_t metadata_bytes_max = 8 << 10;  // of a gRPC call, as HTTP/2 counts
  size_t metadata_entries_max = 100;
  size_t tokenize_bytes_max = 8 << 20;
  // A request without a deadline gets this one; a later one is cut to it.
  MonoNanos deadline_max = 3600 * kNanosPerSecond;
  // Nearer than this is over: no token comes so soon, and gRPC's clients round a timeout of 0 up.
  MonoNanos deadline_min = 2 * kNanosPerMilli;
};

}  // namespace millrace::server
