#include "game_agent/client.hpp"

#include <algorithm>
#include <deque>
#include <optional>
#include <stdexcept>
#include <utility>

#include <zmq.hpp>

namespace game_agent {
namespace {

using Clock = std::chrono::steady_clock;
using Frame = std::shared_ptr<const std::string>;

constexpr std::size_t kMaxUnsent = 1024;
constexpr int kPingsPerSilence = 3;

Frame pack_request(RequestId id, std::string_view op, const Fields& fields,
                   const std::vector<std::pair<RequestId, const Fields*>>& asks = {}) {
  msgpack::sbuffer buffer;
  msgpack::packer<msgpack::sbuffer> packer(buffer);
  packer.pack_map(3 + fields.size() + (asks.empty() ? 0 : 1));
  packer.pack("v"), packer.pack(1);
  packer.pack("id"), packer.pack(id);
  packer.pack("op"), packer.pack(op);
  buffer.write(fields.packed().data(), fields.packed().size());
  if (!asks.empty()) {
    packer.pack("asks");
    packer.pack_array(static_cast<std::uint32_t>(asks.size()));
  }
  for (const auto& [ask_id, ask] : asks) {
    packer.pack_map(1 + ask->size());
    packer.pack("id"), packer.pack(ask_id);
    buffer.write(ask->packed().data(), ask->packed().size());
  }
  return std::make_shared<const std::string>(buffer.data(), buffer.size());
}

// A reply that no server sent.
Reply error_reply(const std::string& code, const std::string& message) {
  msgpack::sbuffer buffer;
  msgpack::pack(buffer, std::map<std::string, std::string>{
                            {"ev", "error"}, {"code", code}, {"message", message}});
  return Reply(msgpack::unpack(buffer.data(), buffer.size()));
}

std::uint64_t limit_of(const Reply& hello, const std::string& name) {
  using Limits = std::map<std::string, std::uint64_t>;
  const Limits limits = hello.get<Limits>("limits");
  const auto found = limits.find(name);
  return found == limits.end() ? UINT64_MAX : found->second;
}

}  // namespace

Fields& Fields::operator()(std::string_view name, const Fields& value) {
  msgpack::packer<msgpack::sbuffer>(packed_).pack(name);
  append_map(value);
  ++size_;
  return *this;
}

Fields& Fields::binary(std::string_view name, std::string_view bytes) {
  msgpack::packer<msgpack::sbuffer> packer(packed_);
  packer.pack(name);
  packer.pack_bin(static_cast<std::uint32_t>(bytes.size()));
  packer.pack_bin_body(bytes.data(), static_cast<std::uint32_t>(bytes.size()));
  ++size_;
  return *this;
}

void Fields::append_map(const Fields& fields) {
  msgpack::packer<msgpack::sbuffer>(packed_).pack_map(fields.size());
  packed_.write(fields.packed().data(), fields.packed().size());
}

const msgpack::object* Reply::find(std::string_view name) const {
  const msgpack::object_map& fields = map_.get().via.map;
  for (std::uint32_t i = 0; i < fields.size; ++i) {
    const msgpack::object& key = fields.ptr[i].key;
    if (key.type == msgpack::type::STR && key.as<std::string_view>() == name) {
      return &fields.ptr[i].val;
    }
  }
  return nullptr;
}

struct Client::Impl {
  // A request without its last reply.
  struct Open {
    Frame frame;  // that of a tick brings back its asks
    OnEnd on_end;
    OnPiece on_piece;
  };

  explicit Impl(Options given) : options(std::move(given)) { connect(); }

  // A fresh socket says hello; nothing else is sent before that is answered.
  void connect() {
    is_connected = false;
    socket = zmq::socket_t(context, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::linger, 0);
    // Without a server, requests wait here, not in a queue that dies with the socket.
    socket.set(zmq::sockopt::immediate, true);
    // A connection that came back by itself would be a new session to the server.
    socket.set(zmq::sockopt::reconnect_ivl, -1);
    socket.set(zmq::sockopt::ipv6, true);
    if (!options.server_key.empty()) {
      socket.set(zmq::sockopt::curve_serverkey, options.server_key);
      socket.set(zmq::sockopt::curve_publickey, options.public_key);
      socket.set(zmq::sockopt::curve_secretkey, options.secret_key);
    }
    socket.connect(options.endpoint);
    hello_id = next_id++;
    Fields fields;
    fields("protocol", 1);
    if (!options.name.empty()) fields("client", options.name);
    if (!session.empty()) fields("session", session);
    hello = pack_request(hello_id, "hello", fields);
    spoke = Clock::now();
    owed_since = spoke;
  }

  void check_room() const {
    if (unsent.size() >= kMaxUnsent) throw std::length_error("no connection to the server");
  }

  void check_size(const Frame& frame) const {
    if (frame->size() > max_frame_bytes) {
      throw std::length_error("the request has " + std::to_string(frame->size()) +
                              " bytes, the server takes " + std::to_string(max_frame_bytes));
    }
  }

  void begin(Frame frame) {
    unsent.push_back(std::move(frame));
    if (has_slept()) connect();
    // At once, not with the next poll: a frame of the game is worth 16 ms.
    flush();
  }

  void flush() {
    if (hello != nullptr && send(hello)) hello = nullptr;
    while (is_connected) {
      std::deque<Frame>& waiting = again.empty() ? unsent : again;
      if (waiting.empty() || !send(waiting.front())) break;
      waiting.pop_front();
    }
  }

  bool send(const Frame& frame) {
    if (!owed_since) owed_since = Clock::now();
    if (!socket.send(zmq::buffer(*frame), zmq::send_flags::dontwait)) return false;
    spoke = Clock::now();
    return true;
  }

  void keep_alive() {
    const Clock::time_point now = Clock::now();
    if ((owed_since && now - *owed_since > options.silence) || has_slept()) {
      connect();
    } else if (is_connected && now - spoke > options.silence / kPingsPerSilence) {
      // Nobody waits for the reply; that it comes is enough.
      send(pack_request(next_id++, "ping", {}));
    }
  }

  // Whether the game was silent for so long that the server may have forgotten the session. On the
  // same connection that would not show: it would be a new session.
  bool has_slept() const { return is_connected && Clock::now() - spoke > expiry / 2; }

  void take(std::string_view frame) {
    msgpack::object_handle map = msgpack::unpack(frame.data(), frame.size());
    if (map.get().type != msgpack::type::MAP) throw std::runtime_error("the server sent no map");
    const Reply reply(std::move(map));
    const msgpack::object* id = reply.find("id");
    if (id == nullptr || id->type != msgpack::type::POSITIVE_INTEGER) {
      throw std::runtime_error("the server could not read a request: " + reply.message());
    }
    if (id->via.u64 == hello_id) {
      welcome(reply);
    } else {
      answer(id->via.u64, reply);
    }
  }

  void answer(RequestId id, const Reply& reply) {
    const auto found = open.find(id);
    if (found == open.end()) return;
    const std::string ev = reply.get<std::string>("ev");
    if (ev == "ok" || ev == "done" || ev == "error") {
      end(id, reply);
    } else if (found->second.on_piece) {
      // A copy: the callback may start requests.
      const OnPiece on_piece = found->second.on_piece;
      on_piece(reply.text());
    }
  }

  void end(RequestId id, const Reply& reply) {
    const OnEnd on_end = std::move(open.at(id).on_end);
    open.erase(id);
    if (on_end) on_end(reply);
  }

  // The session is there. What it owes is sent again, or given up if it is a new one.
  void welcome(const Reply& reply) {
    if (reply.is_error()) {
      // Tried again in a while, as a new client.
      session.clear();
      owed_since = Clock::now();
      throw std::runtime_error("the server refuses the client: " + reply.message());
    }
    session = reply.get<std::string>("session");
    max_frame_bytes = limit_of(reply, "max_frame_bytes");
    expiry = std::chrono::milliseconds(reply.get<std::int64_t>("expiry_ms"));
    refuse_too_large();
    is_connected = true;
    again.clear();
    std::vector<RequestId> lost;
    for (const auto& [id, request] : open) {
      if (is_unsent(request.frame)) continue;
      if (!reply.get<bool>("resumed")) {
        lost.push_back(id);
      } else if (again.empty() || again.back() != request.frame) {
        again.push_back(request.frame);
      }
    }
    for (const RequestId id : lost) {
      end(id, error_reply("unavailable",
                          "the server lost the session; the request may have been carried out"));
    }
  }

  // Ends what waited for a connection and would close it: only now is the limit known.
  void refuse_too_large() {
    const auto is_too_large = [this](const Frame& frame) { return frame->size() > max_frame_bytes; };
    unsent.erase(std::remove_if(unsent.begin(), unsent.end(), is_too_large), unsent.end());
    std::vector<RequestId> large;
    for (const auto& [id, request] : open) {
      if (is_too_large(request.frame)) large.push_back(id);
    }
    for (const RequestId id : large) {
      end(id, error_reply("too_large", "the request is larger than the " +
                                           std::to_string(max_frame_bytes) +
                                           " bytes that the server takes"));
    }
  }

  bool is_unsent(const Frame& frame) const {
    for (const Frame& each : unsent) {
      if (each == frame) return true;
    }
    return false;
  }

  Options options;
  zmq::context_t context;
  zmq::socket_t socket;
  bool is_connected = false;
  std::string session;
  std::uint64_t max_frame_bytes = UINT64_MAX;
  std::chrono::milliseconds expiry{0};  // known once the client is connected
  RequestId next_id = 1;
  RequestId hello_id = 0;
  Frame hello;                      // until it is sent
  std::map<RequestId, Open> open;   // in the order in which they were made
  std::deque<Frame> again, unsent;  // sent before, and never yet
  Clock::time_point spoke;
  std::optional<Clock::time_point> owed_since;
};

Client::Client(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Client::~Client() = default;

RequestId Client::request(std::string_view op, const Fields& fields, OnEnd on_end,
                          OnPiece on_piece) {
  impl_->check_room();
  const RequestId id = impl_->next_id++;
  const Frame frame = pack_request(id, op, fields);
  impl_->check_size(frame);
  impl_->open[id] = {frame, std::move(on_end), std::move(on_piece)};
  impl_->begin(frame);
  return id;
}

TickIds Client::tick(const Fields& fields, std::vector<Ask> asks, OnEnd on_end) {
  impl_->check_room();
  TickIds ids{impl_->next_id++, {}};
  std::vector<std::pair<RequestId, const Fields*>> numbered;
  for (const Ask& ask : asks) {
    ids.asks.push_back(impl_->next_id++);
    numbered.emplace_back(ids.asks.back(), &ask.fields);
  }
  const Frame frame = pack_request(ids.tick, "tick", fields, numbered);
  impl_->check_size(frame);
  impl_->open[ids.tick] = {frame, std::move(on_end), {}};
  for (std::size_t i = 0; i < asks.size(); ++i) {
    impl_->open[ids.asks[i]] = {frame, std::move(asks[i].on_end), std::move(asks[i].on_piece)};
  }
  impl_->begin(frame);
  return ids;
}

void Client::poll(int max_messages) {
  for (int i = 0; i < max_messages; ++i) {
    zmq::message_t message;
    if (!impl_->socket.recv(message, zmq::recv_flags::dontwait)) break;
    impl_->owed_since.reset();
    impl_->take({static_cast<const char*>(message.data()), message.size()});
  }
  impl_->keep_alive();
  impl_->flush();
}

bool Client::is_connected() const { return impl_->is_connected; }

}  // namespace game_agent
