// grpc.channelz.v1: what gRPC itself counts about this process's channels, servers and sockets.
#pragma once

#include "grpc/channelz/v1/channelz.grpc.pb.h"

namespace tutti::rpc {

// Thread-safe. For the cluster's listener: answers show the addresses of peers.
class ChannelzService final : public grpc::channelz::v1::Channelz::CallbackService {
 public:
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* GetTopChannels(Context* context,
                          const grpc::channelz::v1::GetTopChannelsRequest* request,
                          grpc::channelz::v1::GetTopChannelsResponse* response) override;
  Reactor* GetServers(Context* context, const grpc::channelz::v1::GetServersRequest* request,
                      grpc::channelz::v1::GetServersResponse* response) override;
  Reactor* GetServer(Context* context, const grpc::channelz::v1::GetServerRequest* request,
                     grpc::channelz::v1::GetServerResponse* response) override;
  Reactor* GetServerSockets(Context* context,
                            const grpc::channelz::v1::GetServerSocketsRequest* request,
                            grpc::channelz::v1::GetServerSocketsResponse* response) override;
  Reactor* GetChannel(Context* context, const grpc::channelz::v1::GetChannelRequest* request,
                      grpc::channelz::v1::GetChannelResponse* response) override;
  Reactor* GetSubchannel(Context* context, const grpc::channelz::v1::GetSubchannelRequest* request,
                         grpc::channelz::v1::GetSubchannelResponse* response) override;
  Reactor* GetSocket(Context* context, const grpc::channelz::v1::GetSocketRequest* request,
                     grpc::channelz::v1::GetSocketResponse* response) override;
};

}  // namespace tutti::rpc
