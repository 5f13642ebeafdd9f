#include "server/grpc_reflection.h"

#include <set>
#include <variant>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "server/grpc_call.h"
#include "server/grpc_status.h"

namespace millrace::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

const DescriptorPool& Pool() {
  return *DescriptorPool::generated_pool();
}

// A file after all that it imports. Imports have no cycles and ours are few deep.
template <typename Files>
void AppendFile(const FileDescriptor& file, std::set<const FileDescriptor*>& done, Files& out) {
  if (!done.insert(&file).second) return;
  for (int i = 0; i < file.dependency_count(); ++i) AppendFile(*file.dependency(i), done, out);
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  out.add_file_descriptor_proto(proto.SerializeAsString());
}

template <typename Response>
void SetNotFound(const char* what, Response& response) {
  response.mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
  response.mutable_error_response()->set_error_message(what);
}

template <typename Response>
void AnswerFile(const FileDescriptor* file, Response& response) {
  if (file == nullptr) return SetNotFound("There is no such file, symbol or extension.", response);
  std::set<const FileDescriptor*> done;
  AppendFile(*file, done, *response.mutable_file_descriptor_response());
}

template <typename Request, typename Response>
void AnswerExtensions(const Request& request, Response& response) {
  const std::string& name = request.all_extension_numbers_of_type();
  const Descriptor* type = Pool().FindMessageTypeByName(name);
  if (type == nullptr) return SetNotFound("There is no such type.", response);
  std::vector<const FieldDescriptor*> extensions;
  Pool().FindAllExtensions(type, &extensions);
  auto& answer = *response.mutable_all_extension_numbers_response();
  answer.set_base_type_name(name);
  for (const FieldDescriptor* field : extensions) answer.add_extension_number(field->number());
}

template <typename Request>
const FileDescriptor* FileOfExtension(const Request& request) {
  const auto& wanted = request.file_containing_extension();
  const Descriptor* type = Pool().FindMessageTypeByName(wanted.containing_type());
  const FieldDescriptor* field =
      type != nullptr ? Pool().FindExtensionByNumber(type, wanted.extension_number()) : nullptr;
  return field != nullptr ? field->file() : nullptr;
}

template <typename Request, typename Response>
void Answer(const ReflectionSource& source, const Request& request, Response& response) {
  switch (request.message_request_case()) {
    case Request::kFileByFilename:
      return AnswerFile(Pool().FindFileByName(request.file_by_filename()), response);
    case Request::kFileContainingSymbol:
      return AnswerFile(Pool().FindFileContainingSymbol(request.file_containing_symbol()),
                        response);
    case Request::kFileContainingExtension:
      return AnswerFile(FileOfExtension(request), response);
    case Request::kAllExtensionNumbersOfType:
      return AnswerExtensions(request, response);
    case Request::kListServices:
      for (const std::string& name : source.services) {
        response.mutable_list_services_response()->add_service()->set_name(name);
      }
      return;
    case Request::MESSAGE_REQUEST_NOT_SET:
      break;
  }
  response.mutable_error_response()->set_error_code(grpc::StatusCode::INVALID_ARGUMENT);
  response.mutable_error_response()->set_error_message("The request asks nothing.");
}

// One caller: a question, its answer, the next question. Thread: one at a time, gRPC's.
template <typename Request, typename Response>
class ReflectionCall final : public grpc::ServerBidiReactor<Request, Response> {
 public:
  ReflectionCall(const ReflectionSource& source, const grpc::CallbackServerContext& context)
      : source_(source) {
    const std::variant<std::string, ApiError> name = CheckKey(*source.keys, context);
    if (const auto* error = std::get_if<ApiError>(&name)) {
      this->Finish(ToGrpcStatus(*error, ""));
    } else {
      this->StartRead(&request_);
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return this->Finish(grpc::Status::OK);
    response_.Clear();
    response_.set_valid_host(request_.host());
    *response_.mutable_original_request() = request_;
    Answer(source_, request_, response_);
    this->StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return this->Finish(grpc::Status::CANCELLED);
    this->StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  const ReflectionSource& source_;
  Request request_;
  Response response_;
};

}  // namespace

grpc::ServerBidiReactor<grpc::reflection::v1::ServerReflectionRequest,
                        grpc::reflection::v1::ServerReflectionResponse>*
GrpcReflection::ServerReflectionInfo(grpc::CallbackServerContext* context) {
  return new ReflectionCall<grpc::reflection::v1::ServerReflectionRequest,
                            grpc::reflection::v1::ServerReflectionResponse>(source_, *context);
}

grpc::ServerBidiReactor<grpc::reflection::v1alpha::ServerReflectionRequest,
                        grpc::reflection::v1alpha::ServerReflectionResponse>*
GrpcReflectionAlpha::ServerReflectionInfo(grpc::CallbackServerContext* context) {
  return new ReflectionCall<grpc::reflection::v1alpha::ServerReflectionRequest,
                            grpc::reflection::v1alpha::ServerReflectionResponse>(source_, *context);
}

}  // namespace millrace::server
