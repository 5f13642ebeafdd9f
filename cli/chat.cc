#include "cli/chat.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>

#include "millrace/v1/inference_service.grpc.pb.h"
#include "millrace/v1/model_service.grpc.pb.h"

namespace millrace::cli {
namespace {

namespace v1 = ::millrace::v1;

// Reads the first line of the key file and puts it on a call.
bool Authorize(const ChatOptions& options, grpc::ClientContext& context) {
  if (options.api_key_file.empty()) return true;
  std::ifstream file(options.api_key_file);
  std::string key;
  if (!std::getline(file, key)) {
    std::cerr << "millrace: cannot read a key from " << options.api_key_file << "\n";
    return false;
  }
  if (const size_t colon = key.find(':'); colon != std::string::npos) key.erase(0, colon + 1);
  context.AddMetadata("authorization", "Bearer " + key);
  return true;
}

bool Report(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return true;
  std::cerr << "millrace: " << address << ": " << status.error_message() << "\n";
  return false;
}

v1::ChatMessage Message(v1::ChatRole role, std::string text) {
  v1::ChatMessage message;
  message.set_role(role);
  message.set_text(std::move(text));
  return message;
}

// Sends the conversation, prints the answer as it comes, and adds it to the conversation.
bool Turn(v1::InferenceService::Stub& stub, const ChatOptions& options, v1::ChatRequest& chat) {
  grpc::ClientContext context;
  if (!Authorize(options, context)) return false;
  v1::ChatStreamRequest request;
  *request.mutable_request() = chat;
  auto reader = stub.ChatStream(&context, request);
  std::string answer;
  v1::ChatStreamResponse response;
  while (reader->Read(&response)) {
    for (const v1::Output& output : response.outputs()) {
      std::cout << output.text() << std::flush;
      answer += output.text();
    }
  }
  std::cout << "\n";
  if (!Report(reader->Finish(), options.address)) return false;
  *chat.add_messages() = Message(v1::CHAT_ROLE_ASSISTANT, answer);
  return true;
}

// The model that was named, or the first.
bool FindModel(const std::shared_ptr<grpc::Channel>& channel, const ChatOptions& options,
               v1::Model& model) {
  grpc::ClientContext context;
  if (!Authorize(options, context)) return false;
  auto stub = v1::ModelService::NewStub(channel);
  if (!options.model.empty()) {
    v1::GetModelRequest request;
    request.set_name(options.model);
    v1::GetModelResponse response;
    if (!Report(stub->GetModel(&context, request, &response), options.address)) return false;
    model = response.model();
    return true;
  }
  v1::ListModelsResponse models;
  if (!Report(stub->ListModels(&context, {}, &models), options.address)) return false;
  if (models.models().empty()) {
    std::cerr << "millrace: " << options.address << " serves no model\n";
    return false;
  }
  model = models.models(0);
  return true;
}

// What the user did not say is the model's. Where its author says nothing: the likeliest answer,
// and not a whole context of it.
void SetSampling(const ChatOptions& options, const v1::Model& model, v1::ChatRequest& chat) {
  const v1::SamplingDefaults& defaults = model.sampling_defaults();
  if (options.temperature || !defaults.from_model()) {
    chat.mutable_sampling()->set_temperature(static_cast<float>(options.temperature.value_or(0)));
  }
  if (options.max_tokens || !defaults.has_chat_max_tokens()) {
    const int64_t usual = std::min(512, (model.max_model_len() + 1) / 2);
    chat.mutable_stopping()->set_max_tokens(
        static_cast<int32_t>(options.max_tokens.value_or(usual)));
  }
}

}  // namespace

int RunChat(const ChatOptions& options) {
  auto channel = grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials());
  v1::Model model;
  if (!FindModel(channel, options, model)) return 1;

  v1::ChatRequest chat;
  chat.set_model(model.name());
  SetSampling(options, model, chat);
  if (!options.system.empty()) {
    *chat.add_messages() = Message(v1::CHAT_ROLE_SYSTEM, options.system);
  }
  auto stub = v1::InferenceService::NewStub(channel);
  if (!options.message.empty()) {
    *chat.add_messages() = Message(v1::CHAT_ROLE_USER, options.message);
    return Turn(*stub, options, chat) ? 0 : 1;
  }
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) std::cout << model.name() << " at " << options.address << "; an empty line ends.\n";
  std::string line;
  while ((terminal && std::cout << "> " << std::flush, std::getline(std::cin, line)) &&
         !line.empty()) {
    *chat.add_messages() = Message(v1::CHAT_ROLE_USER, line);
    if (!Turn(*stub, options, chat)) return 1;
  }
  return 0;
}

}  // namespace millrace::cli
