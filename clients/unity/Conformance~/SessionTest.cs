// What the conformance script cannot show: a clock and a socket in the test's hand.
using System;
using System.Collections.Generic;
using System.Linq;

namespace GameAgent.Conformance
{
    using Map = Dictionary<string, object>;

    /// A frame is the number of a message in a list.
    public sealed class ListCodec : ICodec
    {
        private readonly List<Map> _messages = new List<Map>();

        public byte[] Pack(Map message)
        {
            if (message.Values.Any(value => value is Uri)) throw new ArgumentException("no type for Uri");
            _messages.Add(message);
            byte[] frame = new byte[message.ContainsKey("large") ? 2000 : 4];
            BitConverter.GetBytes(_messages.Count - 1).CopyTo(frame, 0);
            return frame;
        }

        public Map Unpack(byte[] frame) { return _messages[BitConverter.ToInt32(frame, 0)]; }
    }

    public sealed class ListSocket : ISocket
    {
        public readonly List<byte[]> Sent = new List<byte[]>();
        public readonly Queue<byte[]> Arrived = new Queue<byte[]>();

        public bool TrySend(byte[] frame) { Sent.Add(frame); return true; }
        public void Dispose() { }

        public bool TryReceive(out byte[] frame)
        {
            frame = Arrived.Count > 0 ? Arrived.Dequeue() : null;
            return frame != null;
        }
    }

    public static class SessionTest
    {
        private static readonly ListCodec Codec = new ListCodec();
        private static readonly List<ListSocket> Sockets = new List<ListSocket>();
        private static double _nowS;

        private static ListSocket Connect()
        {
            Sockets.Add(new ListSocket());
            return Sockets.Last();
        }

        private static Map Last(ListSocket socket) { return Codec.Unpack(socket.Sent.Last()); }

        private static void Welcome(Session session, bool isResumed)
        {
            session.Poll();
            ListSocket socket = Sockets.Last();
            Check((string)Last(socket)["op"] == "hello", "a connection begins with hello");
            socket.Arrived.Enqueue(Codec.Pack(new Map
            {
                ["id"] = Last(socket)["id"], ["ev"] = "ok", ["session"] = "s", ["resumed"] = isResumed,
                ["expiry_ms"] = 60000, ["limits"] = new Map { ["max_frame_bytes"] = 1000 },
            }));
            session.Poll();
        }

        private static void Check(bool isTrue, string what)
        {
            if (!isTrue) throw new InvalidOperationException(what);
        }

        private static void AfterASilenceOfTheGameAForgottenSessionShows()
        {
            var session = new Session(Connect, Codec, () => _nowS, 3, null);
            Welcome(session, false);
            Reply lost = null;
            session.Request(session.NewId(), "ask", null, reply => lost = reply, null);
            Sockets.Last().Arrived.Enqueue(Codec.Pack(
                new Map { ["id"] = Last(Sockets.Last())["id"], ["ev"] = "token", ["text"] = "Yes" }));
            session.Poll();
            _nowS += 31;
            int numSockets = Sockets.Count;
            session.Request(session.NewId(), "ping", null, null, null);
            Check(Sockets.Count == numSockets + 1, "the connection is replaced");
            Check((string)Last(Sockets.Last())["session"] == "s", "the session is asked for");
            Welcome(session, false);
            Check(lost != null && lost.Code == "unavailable", "what was asked before has failed");
            Check((string)Last(Sockets.Last())["op"] == "ping", "what was asked now is sent");
        }

        private static void WhatCannotBeEncodedFails()
        {
            var session = new Session(Connect, Codec, () => _nowS, 3, null);
            Reply failed = null;
            var fields = new Map { ["world"] = new Uri("http://x") };
            session.Request(session.NewId(), "world.get", fields, reply => failed = reply, null);
            Check(failed != null && failed.Code == "invalid", "the caller is told");
            Check(failed.Message.Contains("Uri"), "and why");
        }

        private static void WhatIsTooLargeEndsWhenTheLimitIsKnown()
        {
            var session = new Session(Connect, Codec, () => _nowS, 3, null);
            Reply refused = null;
            var large = new Map { ["large"] = true };
            session.Request(session.NewId(), "world.put", large, reply => refused = reply, null);
            session.Request(session.NewId(), "ping", null, null, null);
            Welcome(session, false);
            Check(refused != null && refused.Code == "too_large", "the caller is told");
            Check(Sockets.Last().Sent.Count == 2, "hello and ping are sent");
            Check((string)Last(Sockets.Last())["op"] == "ping", "nothing else");
        }

        public static void Main()
        {
            WhatIsTooLargeEndsWhenTheLimitIsKnown();
            AfterASilenceOfTheGameAForgottenSessionShows();
            WhatCannotBeEncodedFails();
        }
    }
}
