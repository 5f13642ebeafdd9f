// config.json and quantization_config against what the transformers library makes of them, and
// against what nobody computes here.

#include "model/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "model/hf_quantization.h"
#include "tests/support/safetensors_writer.h"

namespace millrace::model {
namespace {

using kernels::WeightType;
using ::testing::HasSubstr;
using testing::HfModel;
using testing::HfShape;

// The test model's config of a family with members changed; JSON null stays null.
absl::StatusOr<HfConfig> Read(const std::string& model_type, const std::string& changes = "{}",
                              const std::string& without = "") {
  HfShape shape;
  shape.model_type = model_type;
  HfModel model(shape);
  const Json patch = *Json::Parse(changes);
  for (const JsonMember& member : patch.object()) model.Set(member.first, member.second);
  JsonObject kept;
  for (const JsonMember& member : model.config().object()) {
    if (member.first != without) kept.push_back(member);
  }
  return ReadHfConfig(Json(kept), "dir/config.json");
}

void ExpectRefused(const absl::Status& status, const std::string& says) {
  EXPECT_FALSE(status.ok()) << "accepted; should say: " << says;
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr(says));
  EXPECT_THAT(message, HasSubstr("dir/config.json"));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

ModelConfig Good(const std::string& model_type, const std::string& changes = "{}",
                 const std::string& without = "") {
  const auto read = Read(model_type, changes, without);
  EXPECT_TRUE(read.ok()) << model_type << " " << changes << ": " << read.status();
  return read.ok() ? read->config : ModelConfig();
}

TEST(HfConfig, FamiliesAndTheirDefaults) {
  const ModelConfig llama = Good("llama");
  EXPECT_EQ(llama.architecture, "llama");
  EXPECT_EQ(llama.hidden, 64);
  EXPECT_EQ(llama.kv_heads, 2);
  EXPECT_EQ(llama.head_dim, 16);
  EXPECT_EQ(llama.rope.rotary_dim, 16);
  EXPECT_EQ(llama.rope.freq_base, 10000.0);
  EXPECT_FALSE(llama.rope.interleaved);
  EXPECT_EQ(llama.context_length, 512);
  EXPECT_EQ(llama.window, 0);
  EXPECT_EQ(Good("llama", "{}", "num_key_value_heads").kv_heads, 4);
  EXPECT_EQ(Good("llama", "{}", "head_dim").head_dim, 16);
  EXPECT_EQ(Good("llama", "{}", "max_position_embeddings").context_length, 2048);
  EXPECT_EQ(Good("llama", "{}", "rms_norm_eps").norm_eps, 1e-6);
  EXPECT_EQ(Good("phi3", "{}", "rms_norm_eps").norm_eps, 1e-5);
  EXPECT_FALSE(Good("llama", "{}", "tie_word_embeddings").tied_embeddings);
  EXPECT_TRUE(Good("gemma2", "{}", "tie_word_embeddings").tied_embeddings);
  EXPECT_EQ(Good("gemma2", "{}", "head_dim").head_dim, 256);
  EXPECT_EQ(Good("qwen3", "{}", "head_dim").head_dim, 128);
  EXPECT_EQ(Good("mistral", "{}", "num_key_value_heads").kv_heads, 8);
  // Null is as many as heads, not the default of the class.
  EXPECT_EQ(Good("mistral", R"({"num_key_value_heads":null})").kv_heads, 4);
  EXPECT_TRUE(Good("qwen2").qkv_bias);
  EXPECT_FALSE(Good("qwen2").o_bias);
  EXPECT_TRUE(Good("llama", R"({"attention_bias":true})").o_bias);
  EXPECT_FALSE(Good("qwen3").qkv_bias);
  EXPECT_EQ(Good("gemma2").norm_offset, 1);
  EXPECT_EQ(Good("llama").norm_offset, 0);
  ExpectRefused(Read("gemma3").status(), "key 'model_type' is 'gemma3'");
  ExpectRefused(Read("").status(), "which is not supported (llama, mistral, qwen2");
}

TEST(HfConfig, WindowsAndLocalLayers) {
  EXPECT_EQ(Good("mistral").window, 0);  // 4096, which no position of 512 can leave
  EXPECT_EQ(Good("mistral", R"({"max_position_embeddings":8192})").window, 4096);
  EXPECT_EQ(Good("mistral", R"({"max_position_embeddings":8192,"sliding_window":null})").window, 0);
  EXPECT_EQ(Good("mistral", R"({"sliding_window":100})").window, 100);
  EXPECT_TRUE(Good("mistral", R"({"sliding_window":100})").local_layers.empty());
  EXPECT_EQ(Good("llama", R"({"sliding_window":100})").window, 0);
  EXPECT_EQ(Good("qwen2", R"({"sliding_window":100})").window, 0);
  const ModelConfig qwen =
      Good("qwen2", R"({"sliding_window":100,"use_sliding_window":true,"max_window_layers":1})");
  EXPECT_EQ(qwen.window, 100);
  EXPECT_EQ(qwen.local_layers, (std::vector<uint8_t>{0, 1}));
  EXPECT_EQ(Good("qwen2", R"({"sliding_window":100,"use_sliding_window":true})").window, 0);
  EXPECT_EQ(Good("qwen2", R"({"sliding_window":100,"use_sliding_window":false,
                              "max_window_layers":1})")
                .window,
            0);
  EXPECT_EQ(Good("mistral", R"({"sliding_window":100,"use_sliding_window":false})").window, 0);
  const ModelConfig second = Good("gemma2", R"({"sliding_window":100})");
  EXPECT_EQ(second.local_layers, (std::vector<uint8_t>{1, 0}));
  EXPECT_EQ(second.attention_cap, 50);
  EXPECT_EQ(second.logit_cap, 30);
  EXPECT_EQ(Good("gemma2", R"({"attn_logit_softcapping":null})").attention_cap, 0);
  EXPECT_EQ(Good("gemma2", R"({"final_logit_softcapping":7.5})").logit_cap, 7.5);
  EXPECT_NEAR(Good("gemma2", R"({"query_pre_attn_scalar":144})").query_scale, 1.0 / 12, 1e-12);
  const ModelConfig third = Good("gemma3_text", R"({"num_hidden_layers":7,"sliding_window":64})");
  EXPECT_EQ(third.local_layers, (std::vector<uint8_t>{1, 1, 1, 1, 1, 0, 1}));
  EXPECT_EQ(third.attention_cap, 0);
  EXPECT_EQ(
      Good("gemma3_text", R"({"num_hidden_layers":3,"sliding_window_pattern":3})").local_layers,
      (std::vector<uint8_t>{1, 1, 0}));
  EXPECT_EQ(
      Good("gemma3_text", R"({"layer_types":["full_attention","sliding_attention"]})").local_layers,
      (std::vector<uint8_t>{0, 1}));
  ExpectRefused(Read("gemma2", R"({"layer_types":["full_attention"]})").status(), "layer_types");
  ExpectRefused(Read("gemma2", R"({"layer_types":["x","y"]})").status(), "layer_types");
  ExpectRefused(Read("gemma2", R"({"sliding_window_pattern":0})").status(), "at least 1");
  ExpectRefused(Read("llama", R"({"layer_types":["sliding_attention","full_attention"]})").status(),
                "layer_types");
  ExpectRefused(Read("mistral", R"({"sliding_window":-1})").status(), "is negative");
}

TEST(HfConfig, RopeOfBothStyles) {
  const char* const kLlama3[] = {
      R"({"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":32.0,
          "low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})",
      R"({"rope_parameters":{"rope_theta":500000.0,"rope_type":"llama3","factor":32.0,
          "low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})"};
  for (const char* text : kLlama3) {
    const RopeConfig rope = Good("llama", text).rope;
    EXPECT_EQ(rope.scaling, RopeScaling::kLlama3);
    EXPECT_EQ(rope.freq_base, 500000.0);
    EXPECT_EQ(rope.factor, 32.0);
    EXPECT_EQ(rope.original_context, 8192);
  }
  const RopeConfig linear = Good("llama", R"({"rope_scaling":{"type":"linear","factor":4}})").rope;
  EXPECT_EQ(linear.scaling, RopeScaling::kLinear);
  EXPECT_EQ(linear.factor, 4);
  const ModelConfig yarn = Good(
      "qwen2", R"({"rope_scaling":{"type":"yarn","factor":4,"original_max_position_embeddings":512,
                 "beta_fast":16,"attention_factor":1.5}})");
  EXPECT_EQ(yarn.rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(yarn.rope.beta_fast, 16);
  EXPECT_EQ(yarn.rope.attention_factor, 1.5);
  EXPECT_EQ(yarn.context_length, 2048);  // what the scaling reaches
  EXPECT_EQ(Good("qwen2", R"({"max_position_embeddings":4096,"rope_scaling":{"type":"yarn",
                              "factor":2,"original_max_position_embeddings":512}})")
                .context_length,
            4096);
  const ModelConfig phi =
      Good("phi3", R"({"original_max_position_embeddings":128,"partial_rotary_factor":0.75,
                "rope_scaling":{"type":"su","short_factor":[1,1,1,1,1,1],
                "long_factor":[2,2,2,2,2,2.5]}})");
  EXPECT_EQ(phi.rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(phi.rope.rotary_dim, 12);
  EXPECT_EQ(phi.rope.factor, 4.0);
  EXPECT_EQ(phi.rope.original_context, 128);
  EXPECT_EQ(phi.rope.long_factors.back(), 2.5f);
  EXPECT_EQ(Good("phi3", R"({"rope_scaling":{"type":"yarn","factor":2,
                             "short_factor":[1,1,1,1,1,1,1,1],"long_factor":[2,2,2,2,2,2,2,2]}})")
                .rope.scaling,
            RopeScaling::kLongRope);
  const ModelConfig old_gemma =
      Good("gemma3_text", R"({"rope_theta":2e6,"rope_local_base_freq":5000,
                             "rope_scaling":{"rope_type":"linear","factor":8}})");
  EXPECT_EQ(old_gemma.rope.freq_base, 2e6);
  EXPECT_EQ(old_gemma.rope.factor, 8);
  EXPECT_EQ(old_gemma.local_rope->freq_base, 5000);
  EXPECT_EQ(old_gemma.local_rope->scaling, RopeScaling::kNone);
  const ModelConfig new_gemma =
      Good("gemma3_text", R"({"rope_parameters":{"full_attention":{"rope_type":"linear","factor":8,
           "rope_theta":2e6},"sliding_attention":{"rope_type":"default","rope_theta":5000}}})");
  EXPECT_EQ(new_gemma.rope.freq_base, 2e6);
  EXPECT_EQ(new_gemma.rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(new_gemma.local_rope->freq_base, 5000);
  EXPECT_EQ(Good("gemma3_text").rope.freq_base, 1e6);
  EXPECT_EQ(Good("gemma3_text").local_rope->freq_base, 1e4);

  const auto refused = [](const char* text, const char* says) {
    ExpectRefused(Read("llama", text).status(), says);
  };
  refused(R"({"rope_scaling":{"type":"dynamic","factor":2}})", "is 'dynamic'");
  refused(R"({"rope_scaling":{"type":"linear"}})", "'rope_scaling.factor' is missing");
  refused(R"({"rope_scaling":{"type":"llama3","factor":2}})", "low_freq_factor");
  refused(R"({"rope_scaling":{"type":"longrope"}})", "'rope_scaling.short_factor' is missing");
  refused(R"({"rope_scaling":{"type":"linear","factor":2,"sections":3}})",
          "'rope_scaling.sections'");
  refused(R"({"rope_scaling":{"mrope_section":[1,2]}})", "mrope_section");
  refused(R"({"rope_scaling":3})", "is no object");
  refused(R"({"partial_rotary_factor":1.5})", "partial_rotary_factor");
  refused(R"({"rope_theta":"big"})", "is no number");
}

TEST(HfConfig, WhatWouldChangeTheAnswerIsRefusedByName) {
  const std::pair<const char*, const char*> rows[] = {
      {R"({"mlp_bias":true})", "'mlp_bias'"},
      {R"({"hidden_act":"gelu"})", "'hidden_act' is 'gelu'"},
      {R"({"num_experts":8})", "'num_experts'"},
      {R"({"pretraining_tp":2})", "'pretraining_tp'"},
      {R"({"attn_logit_softcapping":50})", "'attn_logit_softcapping'"},
      {R"({"use_bidirectional_attention":true})", "'use_bidirectional_attention'"},
      {R"({"logits_scaling":8})", "'logits_scaling'"},
      {R"({"vision_config":{}})", "'vision_config'"},
      {R"({"hidden_size":"64"})", "'hidden_size' is no whole number"},
      {R"({"hidden_size":64.5})", "'hidden_size' is no whole number"},
      {R"({"num_hidden_layers":0})", "'num_hidden_layers'"},
      {R"({"num_hidden_layers":1000000000})", "'num_hidden_layers'"},
      {R"({"num_attention_heads":0})", "'num_attention_heads'"},
      {R"({"tie_word_embeddings":"yes"})", "'tie_word_embeddings'"},
      {R"({"eos_token_id":-1})", "'eos_token_id'"},
      {R"({"eos_token_id":[1,"2"]})", "'eos_token_id'"},
  };
  for (const auto& [text, says] : rows) ExpectRefused(Read("llama", text).status(), says);
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads",
                          "intermediate_size", "vocab_size"}) {
    ExpectRefused(Read("llama", "{}", key).status(), "is missing");
  }
  EXPECT_TRUE(Read("llama", R"({"mlp_bias":false,"pretraining_tp":1,"num_experts":null})").ok());
  const auto read = Read("llama", R"({"eos_token_id":[2,7,2],"some_new_key":1})");
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->config.end_tokens, (std::vector<int32_t>{2, 7}));
  EXPECT_THAT(read->ignored, ::testing::Contains("some_new_key"));
  EXPECT_THAT(read->ignored, ::testing::Not(::testing::Contains("hidden_size")));
}

// --- quantization_config ---

absl::StatusOr<HfQuantization> Quantization(const std::string& text) {
  return HfQuantization::Read(*Json::Parse(text), "dir/config.json");
}

QuantScheme SchemeOf(const std::string& text, const std::string& module) {
  const auto read = Quantization(text);
  EXPECT_TRUE(read.ok()) << text << ": " << read.status();
  if (!read.ok()) return {};
  const auto scheme = read->SchemeOf(module);
  EXPECT_TRUE(scheme.ok()) << scheme.status();
  return scheme.ok() && *scheme != nullptr ? **scheme
                                           : QuantScheme{WeightType::kF32, 0, true, false, 0};
}

constexpr char kModule[] = "model.layers.3.mlp.down_proj";

TEST(HfQuantization, Gptq) {
  const QuantScheme plain = SchemeOf(
      R"({"quant_method":"gptq","bits":4,"group_size":64,"sym":false,"desc_act":true})", kModule);
  EXPECT_EQ(plain.type, WeightType::kGptq4);
  EXPECT_EQ(plain.group_size, 64);
  EXPECT_FALSE(plain.symmetric);
  EXPECT_TRUE(plain.act_order);
  EXPECT_EQ(plain.zero_offset, 1);
  const QuantScheme second = SchemeOf(
      R"({"quant_method":"gptq","bits":8,"group_size":-1,"checkpoint_format":"gptq_v2"})", kModule);
  EXPECT_EQ(second.type, WeightType::kGptq8);
  EXPECT_EQ(second.group_size, -1);
  EXPECT_TRUE(second.symmetric);
  EXPECT_EQ(second.zero_offset, 0);
  // The first pattern that matches at the beginning of the name decides.
  const std::string dynamic = R"({"quant_method":"gptq","bits":4,"group_size":128,"dynamic":{
      "-:model\\.layers\\.3\\.self_attn":{},
      "+:.*\\.down_proj":{"bits":8,"group_size":32},
      "model\\.layers\\.4\\.":{"desc_act":true},
      "layers":{"bits":8}}})";
  EXPECT_EQ(SchemeOf(dynamic, kModule).type, WeightType::kGptq8);
  EXPECT_EQ(SchemeOf(dynamic, kModule).group_size, 32);
  EXPECT_EQ(SchemeOf(dynamic, "model.layers.3.self_attn.q_proj").type, WeightType::kF32);
  EXPECT_TRUE(SchemeOf(dynamic, "model.layers.4.mlp.up_proj").act_order);
  EXPECT_EQ(SchemeOf(dynamic, "model.layers.5.mlp.up_proj").type, WeightType::kGptq4);
}

TEST(HfQuantization, Awq) {
  const QuantScheme scheme = SchemeOf(
      R"({"quant_method":"awq","bits":4,"group_size":64,"zero_point":true,"version":"GEMM",
          "modules_to_not_convert":["self_attn"]})",
      kModule);
  EXPECT_EQ(scheme.type, WeightType::kAwq4);
  EXPECT_EQ(scheme.group_size, 64);
  EXPECT_EQ(scheme.zero_offset, 0);
  EXPECT_EQ(SchemeOf(R"({"quant_method":"awq","w_bit":4,"q_group_size":32})", kModule).group_size,
            32);
  EXPECT_EQ(SchemeOf(R"({"quant_method":"awq","modules_to_not_convert":["down"]})", kModule).type,
            WeightType::kF32);
}

std::string Compressed(const std::string& weights, const std::string& rest = "",
                       const std::string& format = "pack-quantized") {
  return R"({"quant_method":"compressed-tensors","format":")" + format +
         R"(","config_groups":{"group_0":{"targets":["Linear"],"weights":)" + weights + rest +
         R"(}},"ignore":["lm_head","re:.*self_attn.*"]})";
}

TEST(HfQuantization, CompressedTensors) {
  const std::string w4 =
      R"({"num_bits":4,"type":"int","symmetric":true,"strategy":"group","group_size":128,
          "actorder":"group"})";
  const QuantScheme scheme = SchemeOf(Compressed(w4), kModule);
  EXPECT_EQ(scheme.type, WeightType::kPacked4);
  EXPECT_EQ(scheme.group_size, 128);
  EXPECT_TRUE(scheme.act_order);
  EXPECT_EQ(SchemeOf(Compressed(w4), "lm_head").type, WeightType::kF32);
  EXPECT_EQ(SchemeOf(Compressed(w4), "model.layers.0.self_attn.q_proj").type, WeightType::kF32);
  const QuantScheme w8 = SchemeOf(
      Compressed(R"({"num_bits":8,"symmetric":false,"strategy":"channel","actorder":"weight"})"),
      kModule);
  EXPECT_EQ(w8.type, WeightType::kPacked8);
  EXPECT_EQ(w8.group_size, -1);
  EXPECT_FALSE(w8.symmetric);
  EXPECT_FALSE(w8.act_order);
  const std::string per_token =
      R"(,"input_activations":{"num_bits":8,"type":"int","symmetric":true,"dynamic":true,
          "strategy":"token"})";
  EXPECT_EQ(SchemeOf(Compressed(R"({"num_bits":8,"strategy":"channel","symmetric":true})",
                                per_token, "int-quantized"),
                     kModule)
                .type,
            WeightType::kInt8Channel);
  // Two groups: names before classes, whatever their order.
  const std::string two = R"({"quant_method":"compressed-tensors","config_groups":{
      "all":{"targets":["Linear"],"weights":{"num_bits":4,"strategy":"channel"}},
      "some":{"targets":["re:.*down_proj"],"weights":{"num_bits":8,"strategy":"channel"}}}})";
  EXPECT_EQ(SchemeOf(two, kModule).type, WeightType::kPacked8);
  EXPECT_EQ(SchemeOf(two, "model.layers.3.mlp.up_proj").type, WeightType::kPacked4);
}

TEST(HfQuantization, EverythingElseIsRefusedByName) {
  const auto gptq = [](const std::string& rest) {
    return R"({"quant_method":"gptq","bits":4,)" + rest + "}";
  };
  const std::pair<std::string, const char*> rows[] = {
      {"[]", "is no object"},
      {"{}", "'quantization_config.quant_method' is ''"},
      {R"({"quant_method":"bitsandbytes"})", "is 'bitsandbytes'"},
      {R"({"quant_method":"fp8"})", "is 'fp8'"},
      {R"({"quant_method":"gptq"})", "'quantization_config.bits' is missing"},
      {R"({"quant_method":"gptq","bits":0})", "only 4 and 8"},
      {R"({"quant_method":"gptq","bits":1})", "only 4 and 8"},
      {R"({"quant_method":"gptq","bits":2})", "only 4 and 8"},
      {R"({"quant_method":"gptq","bits":3})", "only 4 and 8"},
      {R"({"quant_method":"gptq","bits":5})", "only 4 and 8"},
      {R"({"quant_method":"gptq","bits":64})", "only 4 and 8"},
      {R"({"quant_method":"gptq","bits":"4"})", "is no whole number"},
      {gptq(R"("group_size":0)"), "must be -1 or from 1"},
      {gptq(R"("group_size":-2)"), "must be -1 or from 1"},
      {gptq(R"("group_size":9223372036854775807)"), "must be -1 or from 1"},
      {gptq(R"("checkpoint_format":"marlin")"), "is 'marlin'"},
      {gptq(R"("checkpoint_format":"gptq_p")"), "is 'gptq_p'"},
      {gptq(R"("checkpoint_format":"gptq","format":"gptq_v2")"), "differs from checkpoint_format"},
      {gptq(R"("is_marlin_format":true)"), "is_marlin_format"},
      {gptq(R"("pack_dtype":"int8")"), "pack_dtype"},
      {gptq(R"("dynamic":{"(":{}})"), "cannot be compiled"},
      {gptq(R"("dynamic":{"a":{"bits":3}})"), "only 4 and 8"},
      {gptq(R"("dynamic":{"a":{"format":"x"}})"), "no override that is known"},
      {gptq(R"("dynamic":{"a":3})"), "something else than objects"},
      {gptq(R"("dynamic":[])"), "is no object"},
      {R"({"quant_method":"awq","bits":3})", "AWQ is supported at 4"},
      {R"({"quant_method":"awq","version":"gemv"})", "is 'gemv'"},
      {R"({"quant_method":"awq","backend":"llm-awq"})", "is 'llm-awq'"},
      {R"({"quant_method":"awq","zero_point":false})", "zero_point"},
      {R"({"quant_method":"awq","modules_to_not_convert":"x"})", "is no list"},
      {R"({"quant_method":"compressed-tensors"})", "config_groups"},
      {R"({"quant_method":"compressed-tensors","config_groups":{}})", "is empty"},
      {Compressed(R"({"num_bits":3,"strategy":"channel"})"), "only 4 and 8"},
      {Compressed(R"({"num_bits":4,"type":"float","strategy":"channel"})"), "weights.type"},
      {Compressed(R"({"num_bits":4,"strategy":"tensor"})"), "is 'tensor'"},
      {Compressed(R"({"num_bits":4,"strategy":"group"})"), "group_size"},
      {Compressed(R"({"num_bits":4,"strategy":"channel","dynamic":true})"), "weights.dynamic"},
      {Compressed(R"({"num_bits":4,"strategy":"channel","actorder":"odd"})"), "actorder"},
      {Compressed(R"({"num_bits":4,"strategy":"channel"})", "", "marlin-24"), "is 'marlin-24'"},
      {Compressed(R"({"num_bits":8,"strategy":"channel"})", "", "int-quantized"),
       "input_activations"},
      {Compressed(R"({"num_bits":8,"strategy":"channel"})",
                  R"(,"input_activations":{"dynamic":false,"strategy":"tensor"})", "int-quantized"),
       "input_activations.dynamic"},
      {Compressed(R"({"num_bits":4,"strategy":"channel"})",
                  R"(,"input_activations":{"dynamic":true})"),
       "input_activations"},
      {Compressed(R"({"num_bits":4,"strategy":"channel"})", R"(,"output_activations":{})"),
       "output_activations"},
      {R"({"quant_method":"compressed-tensors","kv_cache_scheme":{},"config_groups":{}})",
       "kv_cache_scheme"},
      {R"({"quant_method":"compressed-tensors","sparsity_config":{"format":"sparse-24"},
           "config_groups":{}})",
       "sparsity_config.format"},
  };
  for (const auto& [text, says] : rows) ExpectRefused(Quantization(text).status(), says);
}

TEST(HfQuantization, PatternsHaveABoundOnTheirWork) {
  const auto read = Quantization(R"({"quant_method":"gptq","bits":4,"dynamic":{"(a+)+$":{}}})");
  ASSERT_TRUE(read.ok()) << read.status();
  const auto scheme = read->SchemeOf(std::string(200, 'a') + "b");
  ExpectRefused(scheme.status(), "takes too long");
  EXPECT_FALSE(ModulePattern::Compile(std::string(2000, 'a')).ok());
  EXPECT_FALSE(ModulePattern::Compile("").ok());
  const auto pattern = ModulePattern::Compile("b");
  EXPECT_FALSE(*pattern->Matches("ab"));  // at the beginning, as Python's re.match
  EXPECT_TRUE(*pattern->Matches("ba"));
}

}  // namespace
}  // namespace millrace::model
