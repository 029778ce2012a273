#include "shared/rpc/reflection.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/impl/server_initializer.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <set>

#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "shared/base/strings.h"

namespace tutti::rpc {
namespace {

namespace pb = grpc::reflection::v1;
using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

// The file and what it imports, each once.
void AddFiles(const FileDescriptor* file, std::set<std::string>* seen,
              pb::FileDescriptorResponse* response) {
  if (!seen->insert(file->name()).second) return;
  google::protobuf::FileDescriptorProto proto;
  file->CopyTo(&proto);
  response->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file->dependency_count(); ++i) AddFiles(file->dependency(i), seen, response);
}

void Fail(grpc::StatusCode code, const std::string& what, pb::ServerReflectionResponse* response) {
  response->mutable_error_response()->set_error_code(code);
  response->mutable_error_response()->set_error_message(what);
}

void GiveFile(const FileDescriptor* file, const std::string& what,
              pb::ServerReflectionResponse* response) {
  if (file == nullptr)
    return Fail(grpc::StatusCode::NOT_FOUND, Printable(what, 200) + ": not found", response);
  std::set<std::string> seen;
  AddFiles(file, &seen, response->mutable_file_descriptor_response());
}

class ReflectionService final : public pb::ServerReflection::CallbackService {
 public:
  using Base = grpc::ServerBidiReactor<pb::ServerReflectionRequest, pb::ServerReflectionResponse>;

  Base* ServerReflectionInfo(grpc::CallbackServerContext*) override {
    return new Stream(services_);
  }
  void SetServices(const std::vector<std::string>& services) { services_ = services; }

 private:
  class Stream final : public Base {
   public:
    explicit Stream(const std::vector<std::string>& services) : services_(services) {
      StartRead(&request_);
    }
    void OnReadDone(bool ok) override {
      if (!ok) return Finish(grpc::Status::OK);
      response_ = Reflect(request_, services_);
      StartWrite(&response_);
    }
    void OnWriteDone(bool ok) override {
      if (!ok) return Finish(grpc::Status::CANCELLED);
      StartRead(&request_);
    }
    void OnDone() override { delete this; }

   private:
    const std::vector<std::string>& services_;
    pb::ServerReflectionRequest request_;
    pb::ServerReflectionResponse response_;
  };

  std::vector<std::string> services_;  // set before the server starts
};

class ReflectionPlugin final : public grpc::ServerBuilderPlugin {
 public:
  std::string name() override { return "tutti.reflection.v1"; }
  void InitServer(grpc::ServerInitializer* server) override { server->RegisterService(service_); }
  void Finish(grpc::ServerInitializer* server) override {
    service_->SetServices(*server->GetServiceList());
  }
  void ChangeArguments(const std::string&, void*) override {}

 private:
  const std::shared_ptr<ReflectionService> service_ = std::make_shared<ReflectionService>();
};

std::unique_ptr<grpc::ServerBuilderPlugin> MakePlugin() {
  return std::make_unique<ReflectionPlugin>();
}

}  // namespace

void InitReflectionV1() { grpc::ServerBuilder::InternalAddPluginFactory(&MakePlugin); }

pb::ServerReflectionResponse Reflect(const pb::ServerReflectionRequest& request,
                                     const std::vector<std::string>& services) {
  const DescriptorPool* pool = DescriptorPool::generated_pool();
  pb::ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case pb::ServerReflectionRequest::kListServices:
      for (const std::string& name : services)
        response.mutable_list_services_response()->add_service()->set_name(name);
      break;
    case pb::ServerReflectionRequest::kFileByFilename:
      GiveFile(pool->FindFileByName(request.file_by_filename()), request.file_by_filename(),
               &response);
      break;
    case pb::ServerReflectionRequest::kFileContainingSymbol:
      GiveFile(pool->FindFileContainingSymbol(request.file_containing_symbol()),
               request.file_containing_symbol(), &response);
      break;
    case pb::ServerReflectionRequest::kFileContainingExtension: {
      const auto& wanted = request.file_containing_extension();
      const Descriptor* type = pool->FindMessageTypeByName(wanted.containing_type());
      const FieldDescriptor* field =
          type == nullptr ? nullptr : pool->FindExtensionByNumber(type, wanted.extension_number());
      GiveFile(field == nullptr ? nullptr : field->file(),
               "extension " + std::to_string(wanted.extension_number()) + " of " +
                   wanted.containing_type(),
               &response);
      break;
    }
    case pb::ServerReflectionRequest::kAllExtensionNumbersOfType: {
      const std::string& name = request.all_extension_numbers_of_type();
      const Descriptor* type = pool->FindMessageTypeByName(name);
      if (type == nullptr) {
        Fail(grpc::StatusCode::NOT_FOUND, Printable(name, 200) + ": not found", &response);
        break;
      }
      auto* out = response.mutable_all_extension_numbers_response();
      out->set_base_type_name(name);
      std::vector<const FieldDescriptor*> fields;
      pool->FindAllExtensions(type, &fields);
      for (const FieldDescriptor* field : fields) out->add_extension_number(field->number());
      break;
    }
    case pb::ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      Fail(grpc::StatusCode::INVALID_ARGUMENT, "message_request: missing", &response);
      break;
  }
  return response;
}

}  // namespace tutti::rpc
