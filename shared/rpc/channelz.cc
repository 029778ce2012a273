#include "shared/rpc/channelz.h"

#include <google/protobuf/util/json_util.h>
#include <grpc/grpc.h>
#include <grpc/support/alloc.h>

#include <memory>

#include "shared/rpc/status.h"

namespace tutti::rpc {
namespace {

namespace pb = grpc::channelz::v1;
using Reactor = grpc::ServerUnaryReactor;
using Context = grpc::CallbackServerContext;

// gRPC gives its figures as JSON of the response's message; null for an id that is not there.
Reactor* Answer(Context* context, char* text, google::protobuf::Message* response) {
  const std::unique_ptr<char, void (*)(void*)> json(text, gpr_free);
  absl::Status status;
  if (json == nullptr) {
    status = absl::NotFoundError("channelz: nothing here has that id");
  } else {
    google::protobuf::util::JsonParseOptions options;
    options.ignore_unknown_fields = true;
    const auto parsed = google::protobuf::util::JsonStringToMessage(json.get(), response, options);
    if (!parsed.ok()) {
      status = absl::InternalError("channelz: gRPC's figures cannot be read: " +
                                   parsed.message().ToString());
    }
  }
  Reactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace

Reactor* ChannelzService::GetTopChannels(Context* context, const pb::GetTopChannelsRequest* request,
                                         pb::GetTopChannelsResponse* response) {
  return Answer(context, grpc_channelz_get_top_channels(request->start_channel_id()), response);
}
Reactor* ChannelzService::GetServers(Context* context, const pb::GetServersRequest* request,
                                     pb::GetServersResponse* response) {
  return Answer(context, grpc_channelz_get_servers(request->start_server_id()), response);
}
Reactor* ChannelzService::GetServer(Context* context, const pb::GetServerRequest* request,
                                    pb::GetServerResponse* response) {
  return Answer(context, grpc_channelz_get_server(request->server_id()), response);
}
Reactor* ChannelzService::GetServerSockets(Context* context,
                                           const pb::GetServerSocketsRequest* request,
                                           pb::GetServerSocketsResponse* response) {
  // A negative number of results is a failed check inside of gRPC.
  const int64_t most = request->max_results() > 0 ? request->max_results() : 0;
  return Answer(
      context,
      grpc_channelz_get_server_sockets(request->server_id(), request->start_socket_id(), most),
      response);
}
Reactor* ChannelzService::GetChannel(Context* context, const pb::GetChannelRequest* request,
                                     pb::GetChannelResponse* response) {
  return Answer(context, grpc_channelz_get_channel(request->channel_id()), response);
}
Reactor* ChannelzService::GetSubchannel(Context* context, const pb::GetSubchannelRequest* request,
                                        pb::GetSubchannelResponse* response) {
  return Answer(context, grpc_channelz_get_subchannel(request->subchannel_id()), response);
}
Reactor* ChannelzService::GetSocket(Context* context, const pb::GetSocketRequest* request,
                                    pb::GetSocketResponse* response) {
  return Answer(context, grpc_channelz_get_socket(request->socket_id()), response);
}

}  // namespace tutti::rpc
