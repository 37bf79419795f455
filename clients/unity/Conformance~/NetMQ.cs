// As much of NetMQ as Client.cs uses, over libzmq.
using System;
using GameAgent.Conformance;

namespace AsyncIO
{
    public static class ForceDotNet
    {
        public static void Force() { }
    }
}

namespace NetMQ
{
    public static class NetMQConfig
    {
        public static void Cleanup(bool block = true) { }
    }

    public sealed class SocketOptions
    {
        public TimeSpan Linger { get; set; }
        public TimeSpan ReconnectInterval { get; set; }
        public bool DelayAttachOnConnect { get; set; }
    }

    public static class SocketExtensions
    {
        public static bool TrySendFrame(this Sockets.DealerSocket socket, byte[] data, bool more = false)
        {
            return socket.Inner.TrySend(data);
        }

        public static bool TryReceiveFrameBytes(this Sockets.DealerSocket socket, out byte[] bytes)
        {
            return socket.Inner.TryReceive(out bytes);
        }
    }
}

namespace NetMQ.Sockets
{
    public sealed class DealerSocket : IDisposable
    {
        public readonly SocketOptions Options = new SocketOptions();
        internal LibzmqSocket Inner { get; private set; }

        public void Connect(string address)
        {
            bool isAsWanted = Options.Linger == TimeSpan.Zero && Options.DelayAttachOnConnect
                && Options.ReconnectInterval == TimeSpan.FromMilliseconds(-1);
            if (!isAsWanted) throw new InvalidOperationException("LibzmqSocket has other options");
            Inner = new LibzmqSocket(address, new string[0]);
        }

        public void Dispose() { Inner.Dispose(); }
    }
}
