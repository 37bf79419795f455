// The runner of the C++ client; tests/conformance/README.md says what it does.
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "game_agent/client.hpp"

namespace {

using game_agent::Ask;
using game_agent::Client;
using game_agent::Fields;
using game_agent::Reply;

constexpr int kFrameMs = 1;

Fields fields_of(const msgpack::object& map) {
  Fields fields;
  for (std::uint32_t i = 0; i < map.via.map.size; ++i) {
    const msgpack::object_kv& entry = map.via.map.ptr[i];
    if (entry.val.type == msgpack::type::BIN) {
      fields.binary(entry.key.as<std::string_view>(), entry.val.as<std::string_view>());
    } else {
      fields(entry.key.as<std::string_view>(), entry.val);
    }
  }
  return fields;
}

void say(const Fields& event) {
  msgpack::sbuffer buffer;
  msgpack::packer<msgpack::sbuffer>(buffer).pack_map(event.size());
  buffer.write(event.packed().data(), event.packed().size());
  const std::uint32_t size = static_cast<std::uint32_t>(buffer.size());
  for (const int shift : {24, 16, 8, 0}) std::fputc(static_cast<int>(size >> shift & 255), stdout);
  std::fwrite(buffer.data(), 1, buffer.size(), stdout);
  std::fflush(stdout);
}

// What a request is called, and the pieces that it got.
struct Heard {
  std::string name;
  std::vector<std::string> pieces;
};

Ask ask_of(const std::string& name, const msgpack::object& fields) {
  const auto heard = std::make_shared<Heard>(Heard{name, {}});
  return {fields_of(fields),
          [heard](const Reply& reply) {
            say(Fields()("name", heard->name)("reply", reply.map())("pieces", heard->pieces));
          },
          [heard](std::string_view text) { heard->pieces.emplace_back(text); }};
}

void obey(Client& client, const Reply& command) {
  if (command.find("request") != nullptr) {
    const auto name = command.get<std::string>("request");
    Ask ask = ask_of(name, *command.find("fields"));
    const auto op = command.get<std::string>("op");
    const auto id = client.request(op, ask.fields, ask.on_end, ask.on_piece);
    say(Fields()("name", name)("id", id));
    return;
  }
  const auto name = command.get<std::string>("tick");
  std::vector<std::string> names;
  std::vector<Ask> asks;
  for (const msgpack::object& each : command.get<std::vector<msgpack::object>>("asks")) {
    const auto parts = each.as<std::map<std::string, msgpack::object>>();
    names.push_back(parts.at("name").as<std::string>());
    asks.push_back(ask_of(names.back(), parts.at("fields")));
  }
  Ask tick = ask_of(name, *command.find("fields"));
  const auto ids = client.tick(tick.fields, std::move(asks), tick.on_end);
  say(Fields()("name", name)("id", ids.tick));
  for (std::size_t i = 0; i < names.size(); ++i) {
    say(Fields()("name", names[i])("id", ids.asks[i]));
  }
}

// The first whole message in what was read so far; it is taken out.
bool take_message(std::string& read, std::string& message) {
  if (read.size() < 4) return false;
  std::size_t size = 0;
  for (int i = 0; i < 4; ++i) size = size << 8 | static_cast<unsigned char>(read[i]);
  if (read.size() < 4 + size) return false;
  message = read.substr(4, size);
  read.erase(0, 4 + size);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 5) {
    return std::fputs("usage: runner ENDPOINT [SERVER_KEY PUBLIC_KEY SECRET_KEY]\n", stderr), 2;
  }
  game_agent::Options options;
  options.endpoint = argv[1];
  options.name = "conformance";
  options.silence = std::chrono::milliseconds(500);
  if (argc == 5) {
    options.server_key = argv[2], options.public_key = argv[3], options.secret_key = argv[4];
  }
  Client client(options);
  std::string read, message;
  char buffer[65536];
  while (true) {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (poll(&input, 1, kFrameMs) > 0) {
      const ssize_t size = ::read(STDIN_FILENO, buffer, sizeof buffer);
      if (size <= 0) return 0;
      read.append(buffer, static_cast<std::size_t>(size));
      while (take_message(read, message)) {
        obey(client, Reply(msgpack::unpack(message.data(), message.size())));
      }
    }
    client.poll();
  }
}
