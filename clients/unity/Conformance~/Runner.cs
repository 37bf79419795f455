// What all runners of the C# client share; tests/conformance/README.md says what they do.
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;

namespace GameAgent.Conformance
{
    using Map = Dictionary<string, object>;

    /// <summary>What performs the script.</summary>
    public interface IPlayer : IDisposable
    {
        long Request(string op, Ask request);

        /// <summary>Also numbers the asks.</summary>
        long Tick(Ask tick, IList<Ask> asks);

        /// <summary>What a game does in every frame.</summary>
        void Turn();
    }

    public sealed class Runner
    {
        private static readonly SmallCodec Codec = new SmallCodec();
        private readonly Stream _output = Console.OpenStandardOutput();
        private readonly IPlayer _player;

        private Runner(IPlayer player) { _player = player; }

        /// <summary>Perform until stdin ends.</summary>
        public static int Run(IPlayer player)
        {
            var commands = new BlockingCollection<Map>();
            new Thread(() => ReadCommands(commands)) { IsBackground = true }.Start();
            var runner = new Runner(player);
            using (player)
            {
                while (!commands.IsCompleted)
                {
                    Map command;
                    if (commands.TryTake(out command, 1)) runner.Obey(command);
                    player.Turn();
                }
            }
            return 0;
        }

        private void Obey(Map command)
        {
            if (command.ContainsKey("request"))
            {
                Ask ask = AskOf(command["request"], command["fields"]);
                SayId(command["request"], _player.Request((string)command["op"], ask));
                return;
            }
            var parts = ((IList<object>)command["asks"]).Cast<Map>().ToList();
            var asks = parts.Select(each => AskOf(each["name"], each["fields"])).ToList();
            SayId(command["tick"], _player.Tick(AskOf(command["tick"], command["fields"]), asks));
            for (int i = 0; i < asks.Count; ++i) SayId(parts[i]["name"], asks[i].Id);
        }

        private Ask AskOf(object name, object fields)
        {
            var pieces = new List<object>();
            return new Ask
            {
                Fields = (Map)fields,
                OnEnd = reply => Say(
                    new Map { ["name"] = name, ["reply"] = reply.Fields, ["pieces"] = pieces }),
                OnPiece = pieces.Add,
            };
        }

        private void SayId(object name, long id) { Say(new Map { ["name"] = name, ["id"] = id }); }

        private void Say(Map message)
        {
            byte[] data = Codec.Pack(message);
            for (int shift = 24; shift >= 0; shift -= 8) _output.WriteByte((byte)(data.Length >> shift));
            _output.Write(data, 0, data.Length);
            _output.Flush();
        }

        private static void ReadCommands(BlockingCollection<Map> commands)
        {
            var input = new BinaryReader(Console.OpenStandardInput());
            while (true)
            {
                byte[] head = input.ReadBytes(4);
                if (head.Length < 4) break;
                int size = head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3];
                commands.Add(Codec.Unpack(input.ReadBytes(size)));
            }
            commands.CompleteAdding();
        }
    }
}
