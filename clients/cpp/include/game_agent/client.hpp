// A client for game-agent servers: requests out, replies in, nothing waits.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <msgpack.hpp>

namespace game_agent {

// The fields of a request. Takes whatever msgpack can pack: numbers, texts, vectors, maps, and your
// own structs with MSGPACK_DEFINE_MAP.
//
//     Fields()("world", "village")("seq", 1)("merge", std::map<std::string, int>{{"beds", 2}})
class Fields {
 public:
  template <typename T>
  Fields& operator()(std::string_view name, const T& value) {
    msgpack::packer<msgpack::sbuffer> packer(packed_);
    packer.pack(name);
    packer.pack(value);
    ++size_;
    return *this;
  }
  Fields& operator()(std::string_view name, const Fields& value);
  // Binary, such as a save.
  Fields& binary(std::string_view name, std::string_view bytes);

  std::uint32_t size() const { return size_; }
  std::string_view packed() const { return {packed_.data(), packed_.size()}; }

 private:
  void append_map(const Fields& fields);

  msgpack::sbuffer packed_;
  std::uint32_t size_ = 0;
};

// The last reply to a request. Fields that it does not have read as their fallback.
class Reply {
 public:
  explicit Reply(msgpack::object_handle map) : map_(std::move(map)) {}

  bool is_error() const { return get<std::string>("ev") == "error"; }
  std::string code() const { return get<std::string>("code"); }
  std::string message() const { return get<std::string>("message"); }
  // Of an ask: the whole answer.
  std::string text() const { return get<std::string>("text"); }

  // Throws msgpack::type_error if the field is of another type.
  template <typename T>
  T get(std::string_view name, T fallback = T()) const {
    const msgpack::object* value = find(name);
    return value == nullptr ? fallback : value->as<T>();
  }
  // nullptr: there is no such field. It lives as long as the reply.
  const msgpack::object* find(std::string_view name) const;
  const msgpack::object& map() const { return map_.get(); }

 private:
  msgpack::object_handle map_;
};

struct Options {
  std::string endpoint = "tcp://127.0.0.1:5761";
  std::string name;  // what the server should call this client
  // A connection on which nothing came for so long, though something should have, is lost.
  std::chrono::milliseconds silence{3000};
  // For a server that asks for keys, all Z85: the server's, and the client's own.
  std::string server_key, public_key, secret_key;
};

using RequestId = std::uint64_t;
using OnEnd = std::function<void(const Reply&)>;
using OnPiece = std::function<void(std::string_view text)>;

struct Ask {
  Fields fields;
  OnEnd on_end = {};
  OnPiece on_piece = {};
};

struct TickIds {
  RequestId tick;
  std::vector<RequestId> asks;
};

// Talks to one server; used by one thread. Call poll() once a frame: callbacks run inside it.
//
// A connection that is lost is replaced, and its session resumed: requests without a reply are sent
// again under their ids, so that each is carried out once. Before there is a server, requests wait.
class Client {
 public:
  explicit Client(Options options = {});
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Starts a request; see docs/protocol.md for operations and fields. on_end is called once, also
  // with errors; on_piece with the texts of an ask with the field "stream".
  // Throws std::length_error if too many requests wait for a connection, or this one is too large.
  RequestId request(std::string_view op, const Fields& fields, OnEnd on_end = {},
                    OnPiece on_piece = {});

  // Changes a world and asks agents about it, in one message. Throws as request does.
  TickIds tick(const Fields& fields, std::vector<Ask> asks, OnEnd on_end = {});

  // Takes in what has arrived, at most max_messages, and sends what waits. Never waits.
  // Throws std::runtime_error if the server refuses the client, or speaks another protocol.
  void poll(int max_messages = 64);

  bool is_connected() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace game_agent
