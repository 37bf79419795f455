// One session with a server, over as many sockets as it takes. No I/O of its own, one thread.
using System;
using System.Collections.Generic;
using System.Linq;

namespace GameAgent
{
    using Map = Dictionary<string, object>;

    /// <summary>A connected DEALER socket. Neither method waits.</summary>
    public interface ISocket : IDisposable
    {
        bool TrySend(byte[] frame);
        bool TryReceive(out byte[] frame);
    }

    /// <summary>Plain values (null, bool, numbers, string, byte[], lists, maps) to MessagePack.</summary>
    public interface ICodec
    {
        byte[] Pack(Map message);
        Map Unpack(byte[] frame);
    }

    /// <summary>The last reply to a request.</summary>
    public sealed class Reply
    {
        public readonly Map Fields;

        public Reply(Map fields) { Fields = fields; }

        public bool IsError { get { return Text("ev") == "error"; } }
        public string Code { get { return Text("code"); } }
        public string Message { get { return Text("message"); } }

        /// <summary>A text, "" if there is no such field: Text("text") is the answer of an ask.</summary>
        public string Text(string name)
        {
            object value;
            return Fields.TryGetValue(name, out value) && value is string ? (string)value : "";
        }

        /// <summary>A number, 0 if there is no such field.</summary>
        public double Number(string name)
        {
            object value;
            bool isThere = Fields.TryGetValue(name, out value) && value != null;
            return isThere ? Convert.ToDouble(value) : 0;
        }
    }

    /// <summary>An ask of a tick.</summary>
    public sealed class Ask
    {
        /// <summary>Set when the tick is sent: for "cancel" and "agent.heard".</summary>
        public long Id;
        public Map Fields;
        public Action<Reply> OnEnd;
        public Action<string> OnPiece;
    }

    /// <summary>
    /// Requests out, replies in. A connection that is lost is replaced and its session resumed:
    /// requests without a reply are sent again under their ids, so that each is carried out once.
    /// Before there is a server, requests wait.
    /// </summary>
    public sealed class Session : IDisposable
    {
        private const int Version = 1;
        private const int PingsPerSilence = 3;
        private const int MaxUnsent = 1024;
        private const string Lost =
            "the server lost the session; the request may have been carried out";

        private sealed class Open
        {
            public byte[] Frame;
            public Action<Reply> OnEnd;
            public Action<string> OnPiece;
        }

        private readonly Func<ISocket> _connect;
        private readonly ICodec _codec;
        private readonly Func<double> _nowS;
        private readonly double _silenceS;
        private readonly string _name;
        private readonly SortedDictionary<long, Open> _open = new SortedDictionary<long, Open>();
        private readonly Queue<byte[]> _again = new Queue<byte[]>();
        private readonly Queue<byte[]> _unsent = new Queue<byte[]>();
        private ISocket _socket;
        private byte[] _hello;
        private long _helloId;
        private long _nextId = 1;
        private string _session;
        private double _maxFrameBytes = double.PositiveInfinity;
        private double _expiryS;
        private double _spokeS;
        private double? _owedSinceS;

        /// <param name="connect">makes a connected socket</param>
        /// <param name="nowS">a clock that never goes back, in seconds</param>
        /// <param name="silenceS">a connection on which nothing came for so long, though something
        /// should have, is lost</param>
        public Session(
            Func<ISocket> connect, ICodec codec, Func<double> nowS, double silenceS, string name)
        {
            _connect = connect;
            _codec = codec;
            _nowS = nowS;
            _silenceS = silenceS;
            _name = name;
            Connect();
        }

        public bool IsConnected { get; private set; }

        /// <summary>An id for a request. The caller may take it on one thread, send on another.</summary>
        public long NewId() { return System.Threading.Interlocked.Increment(ref _nextId); }

        /// <summary>Start a request. onEnd is called once, also with errors.</summary>
        public void Request(
            long id, string op, Map fields, Action<Reply> onEnd, Action<string> onPiece)
        {
            var message = new Map(fields ?? new Map()) { ["v"] = Version, ["id"] = id, ["op"] = op };
            var waiting = new Dictionary<long, Open>();
            waiting[id] = new Open { OnEnd = onEnd, OnPiece = onPiece };
            Send(message, waiting);
        }

        /// <summary>Change a world and ask agents about it, in one message. The asks have ids.</summary>
        public void Tick(long id, Map fields, IList<Ask> asks, Action<Reply> onEnd)
        {
            var waiting = new Dictionary<long, Open> { [id] = new Open { OnEnd = onEnd } };
            var numbered = new List<object>();
            foreach (Ask ask in asks)
            {
                numbered.Add(new Map(ask.Fields) { ["id"] = ask.Id });
                waiting[ask.Id] = new Open { OnEnd = ask.OnEnd, OnPiece = ask.OnPiece };
            }
            var message = new Map(fields) { ["v"] = Version, ["id"] = id, ["op"] = "tick" };
            message["asks"] = numbered;
            Send(message, waiting);
        }

        /// <summary>Take in what has arrived and send what waits. Never waits.</summary>
        public void Poll(int maxMessages = 64)
        {
            byte[] frame;
            for (int i = 0; i < maxMessages && _socket.TryReceive(out frame); ++i)
            {
                _owedSinceS = null;
                Take(new Reply(_codec.Unpack(frame)));
            }
            KeepAlive();
            Flush();
        }

        public void Dispose() { _socket.Dispose(); }

        private void Connect()
        {
            if (_socket != null) _socket.Dispose();
            IsConnected = false;
            _socket = _connect();
            _helloId = NewId();
            var hello = new Map
            {
                ["v"] = Version, ["id"] = _helloId, ["op"] = "hello", ["protocol"] = Version,
            };
            if (_name != null) hello["client"] = _name;
            if (_session != null) hello["session"] = _session;
            _hello = _codec.Pack(hello);
            _spokeS = _nowS();
            _owedSinceS = _spokeS;
        }

        private void Send(Map message, Dictionary<long, Open> waiting)
        {
            byte[] frame = null;
            string code = null, problem = null;
            try
            {
                frame = _codec.Pack(message);
            }
            catch (Exception error)
            {
                code = "invalid";
                problem = "the request cannot be encoded: " + error.Message;
            }
            if (frame != null && frame.Length > _maxFrameBytes)
            {
                code = "too_large";
                problem = "the request has " + frame.Length + " bytes, the server takes " + _maxFrameBytes;
            }
            else if (frame != null && _unsent.Count >= MaxUnsent)
            {
                code = "overloaded";
                problem = "no connection to the server";
            }
            foreach (var entry in waiting)
            {
                entry.Value.Frame = frame;
                _open[entry.Key] = entry.Value;
            }
            if (problem != null)
            {
                foreach (long id in waiting.Keys) Fail(id, code, problem);
                return;
            }
            _unsent.Enqueue(frame);
            if (HasSlept()) Connect();
            Flush();
        }

        private void Flush()
        {
            if (_hello != null && TrySend(_hello)) _hello = null;
            while (IsConnected)
            {
                var queue = _again.Count > 0 ? _again : _unsent;
                if (queue.Count == 0 || !TrySend(queue.Peek())) break;
                queue.Dequeue();
            }
        }

        private bool TrySend(byte[] frame)
        {
            _owedSinceS = _owedSinceS ?? _nowS();
            if (!_socket.TrySend(frame)) return false;
            _spokeS = _nowS();
            return true;
        }

        private void KeepAlive()
        {
            double nowS = _nowS();
            bool isLost = _owedSinceS.HasValue && nowS - _owedSinceS.Value > _silenceS;
            if (isLost || HasSlept())
            {
                Connect();
            }
            else if (IsConnected && nowS - _spokeS > _silenceS / PingsPerSilence)
            {
                // Nobody waits for the reply; that it comes is enough.
                TrySend(_codec.Pack(new Map { ["v"] = Version, ["id"] = NewId(), ["op"] = "ping" }));
            }
        }

        /// Whether the game was silent for so long that the server may have forgotten the session. On
        /// the same connection that would not show: it would be a new session.
        private bool HasSlept() { return IsConnected && _nowS() - _spokeS > _expiryS / 2; }

        private void Take(Reply reply)
        {
            object id;
            if (!reply.Fields.TryGetValue("id", out id) || id == null)
            {
                throw new InvalidOperationException("the server could not read: " + reply.Message);
            }
            long number = Convert.ToInt64(id);
            if (number == _helloId) Welcome(reply);
            else Answer(number, reply);
        }

        private void Answer(long id, Reply reply)
        {
            Open request;
            if (!_open.TryGetValue(id, out request)) return;
            string ev = reply.Text("ev");
            if (ev == "ok" || ev == "done" || ev == "error")
            {
                _open.Remove(id);
                if (request.OnEnd != null) request.OnEnd(reply);
            }
            else if (request.OnPiece != null)
            {
                request.OnPiece(reply.Text("text"));
            }
        }

        /// The session is there. What it owes is sent again, or given up if it is a new one.
        private void Welcome(Reply reply)
        {
            if (reply.IsError)
            {
                // Tried again in a while, as a new client.
                _session = null;
                _owedSinceS = _nowS();
                throw new InvalidOperationException("the server refuses: " + reply.Message);
            }
            _session = reply.Text("session");
            _maxFrameBytes = new Reply((Map)reply.Fields["limits"]).Number("max_frame_bytes");
            _expiryS = reply.Number("expiry_ms") / 1000;
            RefuseTooLarge();
            IsConnected = true;
            _again.Clear();
            var owed = _open.Where(entry => !_unsent.Contains(entry.Value.Frame)).ToList();
            if (true.Equals(reply.Fields["resumed"]))
            {
                foreach (byte[] frame in owed.Select(entry => entry.Value.Frame).Distinct())
                {
                    _again.Enqueue(frame);
                }
                return;
            }
            foreach (var entry in owed) Fail(entry.Key, "unavailable", Lost);
        }

        /// End what waited for a connection and would close it: only now is the limit known.
        private void RefuseTooLarge()
        {
            List<byte[]> kept = _unsent.Where(frame => frame.Length <= _maxFrameBytes).ToList();
            _unsent.Clear();
            foreach (byte[] frame in kept) _unsent.Enqueue(frame);
            var large = _open.Where(entry => entry.Value.Frame.Length > _maxFrameBytes).ToList();
            string problem = "the request is larger than the " + _maxFrameBytes + " bytes that the server takes";
            foreach (var entry in large) Fail(entry.Key, "too_large", problem);
        }

        private void Fail(long id, string code, string message)
        {
            var fields = new Map { ["ev"] = "error", ["code"] = code, ["message"] = message };
            Answer(id, new Reply(fields));
        }
    }
}
