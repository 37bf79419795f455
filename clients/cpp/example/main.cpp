// A village, a keeper of an inn, and a game loop that asks her something.
#include <chrono>
#include <iostream>
#include <map>
#include <string>
#include <thread>

#include "game_agent/client.hpp"

using game_agent::Client;
using game_agent::Fields;
using game_agent::Reply;

struct Inn {
  int rooms_free = 3;
  std::string keeper = "Mira";
  MSGPACK_DEFINE_MAP(rooms_free, keeper);
};

void must_succeed(const Reply& reply) {
  if (reply.is_error()) std::cerr << reply.code() << ": " << reply.message() << "\n";
}

int main(int argc, char** argv) {
  game_agent::Options options;
  options.name = "example";
  if (argc > 1) options.endpoint = argv[1];
  Client client(options);

  const std::map<std::string, Inn> places{{"inn", Inn()}};
  client.request("world.put", Fields()("world", "village")("state", Fields()("places", places)),
                 must_succeed);
  client.request("agent.put",
                 Fields()("agent", "mira")("world", "village")("profile", "Mira runs the inn."),
                 must_succeed);

  bool is_over = false;
  client.request(
      "ask",
      Fields()("agent", "mira")("event", "How many rooms are free?")("stream", true)(
          "max_tokens", 40),
      [&](const Reply& reply) {
        must_succeed(reply);
        std::cout << "\n";
        is_over = true;
      },
      [](std::string_view text) { std::cout << text << std::flush; });

  while (!is_over) {  // the game's frames
    client.poll();
    std::this_thread::sleep_for(std::chrono::milliseconds(16));
  }
}
