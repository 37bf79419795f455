// The client as a component: NetMQ on a worker thread, callbacks in Update().
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;
using System.Threading;
using MessagePack;
using MessagePack.Resolvers;
using NetMQ;
using NetMQ.Sockets;
using UnityEngine;

namespace GameAgent
{
    using Map = Dictionary<string, object>;

    public sealed class NetMQSocket : ISocket
    {
        private readonly DealerSocket _socket = new DealerSocket();

        public NetMQSocket(string endpoint)
        {
            _socket.Options.Linger = TimeSpan.Zero;
            // Without a server, requests wait in the session, not in a queue that dies with the socket.
            _socket.Options.DelayAttachOnConnect = true;
            // A connection that came back by itself would be a new session to the server.
            _socket.Options.ReconnectInterval = TimeSpan.FromMilliseconds(-1);
            _socket.Connect(endpoint);
        }

        public bool TrySend(byte[] frame) { return _socket.TrySendFrame(frame); }
        public bool TryReceive(out byte[] frame) { return _socket.TryReceiveFrameBytes(out frame); }
        public void Dispose() { _socket.Dispose(); }
    }

    /// <summary>MessagePack-CSharp for plain values only: no generated code, safe with IL2CPP.</summary>
    public sealed class PlainCodec : ICodec
    {
        private static readonly MessagePackSerializerOptions Options =
            MessagePackSerializerOptions.Standard.WithResolver(PrimitiveObjectResolver.Instance);

        public byte[] Pack(Map message)
        {
            return MessagePackSerializer.Serialize<object>(message, Options);
        }

        public Map Unpack(byte[] frame)
        {
            return (Map)Plain(MessagePackSerializer.Deserialize<object>(frame, Options));
        }

        private static object Plain(object value)
        {
            var map = value as IDictionary<object, object>;
            if (map != null) return map.ToDictionary(each => (string)each.Key, each => Plain(each.Value));
            var list = value as object[];
            return list == null ? value : list.Select(Plain).ToList();
        }
    }

    /// <summary>Put it on one object of the first scene. Call it from the main thread.</summary>
    public sealed class Client : MonoBehaviour
    {
        [SerializeField] private string endpoint = "tcp://127.0.0.1:5761";
        [SerializeField] private float silenceSeconds = 3;
        [SerializeField] private int callbacksPerFrame = 64;

        private readonly ConcurrentQueue<Action> _toWorker = new ConcurrentQueue<Action>();
        private readonly ConcurrentQueue<Action> _toGame = new ConcurrentQueue<Action>();
        private readonly AutoResetEvent _wake = new AutoResetEvent(false);
        private volatile bool _isOver;
        private Thread _worker;
        private Session _session;
        private long _lastId = 1L << 32; // above the ids of the session's own requests

        /// <summary>Start a request; see docs/protocol.md. Callbacks run in Update().</summary>
        public long Request(
            string op, Map fields, Action<Reply> onEnd = null, Action<string> onPiece = null)
        {
            long id = ++_lastId;
            Do(() => _session.Request(id, op, fields, InGame(onEnd), InGame(onPiece)));
            return id;
        }

        /// <summary>Change a world and ask agents about it, in one message.</summary>
        public long Tick(Map fields, IList<Ask> asks, Action<Reply> onEnd = null)
        {
            long id = ++_lastId;
            foreach (Ask ask in asks) ask.Id = ++_lastId;
            List<Ask> wrapped = asks.Select(ask => new Ask
            {
                Id = ask.Id,
                Fields = ask.Fields,
                OnEnd = InGame(ask.OnEnd),
                OnPiece = InGame(ask.OnPiece),
            }).ToList();
            Do(() => _session.Tick(id, fields, wrapped, InGame(onEnd)));
            return id;
        }

        private void Awake()
        {
            AsyncIO.ForceDotNet.Force();
            _worker = new Thread(Work) { IsBackground = true, Name = "game-agent" };
            _worker.Start();
        }

        private void Update()
        {
            Action callback;
            for (int i = 0; i < callbacksPerFrame && _toGame.TryDequeue(out callback); ++i) callback();
        }

        private void OnDestroy()
        {
            _isOver = true;
            _wake.Set();
            _worker.Join();
            NetMQConfig.Cleanup(false);
        }

        private void Do(Action request)
        {
            _toWorker.Enqueue(request);
            _wake.Set();
        }

        private Action<T> InGame<T>(Action<T> callback)
        {
            if (callback == null) return null;
            return value => _toGame.Enqueue(() => callback(value));
        }

        /// Everything of the socket and the session happens in this thread.
        private void Work()
        {
            var clock = Stopwatch.StartNew();
            try
            {
                using (_session = new Session(() => new NetMQSocket(endpoint), new PlainCodec(),
                           () => clock.Elapsed.TotalSeconds, silenceSeconds, "unity"))
                {
                    while (!_isOver)
                    {
                        try { Turn(); }
                        catch (Exception error) { Tell(error); }
                        _wake.WaitOne(2);
                    }
                }
            }
            catch (Exception error) // an endpoint that is none, for example
            {
                Tell(error);
            }
        }

        private void Turn()
        {
            Action request;
            while (_toWorker.TryDequeue(out request)) request();
            _session.Poll();
        }

        private void Tell(Exception error)
        {
            _toGame.Enqueue(() => UnityEngine.Debug.LogException(error));
        }
    }
}
