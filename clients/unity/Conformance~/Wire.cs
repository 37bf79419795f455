// libzmq and a small codec in the place of NetMQ and MessagePack-CSharp, so that mono alone is enough.
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text;

namespace GameAgent.Conformance
{
    using Map = Dictionary<string, object>;

    public sealed class LibzmqSocket : ISocket
    {
        private const string Library = "libzmq.so.5";
        private const int Dealer = 5, DontWait = 1;
        private const int Linger = 17, ReconnectIvl = 18, Immediate = 39;
        private const int CurvePublicKey = 48, CurveSecretKey = 49, CurveServerKey = 50;
        private static readonly IntPtr Context = zmq_ctx_new();
        private readonly IntPtr _socket;

        [DllImport(Library)] private static extern IntPtr zmq_ctx_new();
        [DllImport(Library)] private static extern IntPtr zmq_socket(IntPtr context, int type);
        [DllImport(Library)] private static extern int zmq_close(IntPtr socket);
        [DllImport(Library)] private static extern int zmq_connect(IntPtr socket, string endpoint);
        [DllImport(Library)] private static extern int zmq_setsockopt(
            IntPtr socket, int option, ref int value, UIntPtr size);
        [DllImport(Library)] private static extern int zmq_setsockopt(
            IntPtr socket, int option, byte[] value, UIntPtr size);
        [DllImport(Library)] private static extern int zmq_send(
            IntPtr socket, byte[] data, UIntPtr size, int flags);
        [DllImport(Library)] private static extern int zmq_recv(
            IntPtr socket, byte[] data, UIntPtr size, int flags);

        private readonly byte[] _buffer = new byte[1 << 23];

        public LibzmqSocket(string endpoint, string[] keys)
        {
            _socket = zmq_socket(Context, Dealer);
            Set(Linger, 0);
            Set(ReconnectIvl, -1);
            Set(Immediate, 1);
            int[] options = { CurveServerKey, CurvePublicKey, CurveSecretKey };
            for (int i = 0; i < keys.Length; ++i)
            {
                byte[] key = Encoding.ASCII.GetBytes(keys[i]);
                Check(zmq_setsockopt(_socket, options[i], key, (UIntPtr)key.Length));
            }
            Check(zmq_connect(_socket, endpoint));
        }

        public bool TrySend(byte[] frame)
        {
            return zmq_send(_socket, frame, (UIntPtr)frame.Length, DontWait) >= 0;
        }

        public bool TryReceive(out byte[] frame)
        {
            int size = zmq_recv(_socket, _buffer, (UIntPtr)_buffer.Length, DontWait);
            frame = size < 0 ? null : _buffer.Take(size).ToArray();
            return size >= 0;
        }

        public void Dispose() { zmq_close(_socket); }

        private void Set(int option, int value)
        {
            Check(zmq_setsockopt(_socket, option, ref value, (UIntPtr)sizeof(int)));
        }

        private static void Check(int result)
        {
            if (result != 0) throw new InvalidOperationException("libzmq refuses an option");
        }
    }

    /// <summary>As much MessagePack as the protocol has.</summary>
    public sealed class SmallCodec : ICodec
    {
        public byte[] Pack(Map message)
        {
            var stream = new MemoryStream();
            Write(stream, message);
            return stream.ToArray();
        }

        public Map Unpack(byte[] frame) { return (Map)Read(new MemoryStream(frame)); }

        private static void Write(Stream stream, object value)
        {
            if (value == null) stream.WriteByte(0xc0);
            else if (value is bool) stream.WriteByte((byte)((bool)value ? 0xc3 : 0xc2));
            else if (value is string) WriteSized(stream, 0xdb, Encoding.UTF8.GetBytes((string)value));
            else if (value is byte[]) WriteSized(stream, 0xc6, (byte[])value);
            else if (value is double)
            {
                ulong bits = (ulong)BitConverter.DoubleToInt64Bits((double)value);
                WriteNumber(stream, 0xcb, bits, 8);
            }
            else if (value is Map)
            {
                WriteNumber(stream, 0xdf, (ulong)((Map)value).Count, 4);
                foreach (var entry in (Map)value) { Write(stream, entry.Key); Write(stream, entry.Value); }
            }
            else if (value is IList<object>)
            {
                WriteNumber(stream, 0xdd, (ulong)((IList<object>)value).Count, 4);
                foreach (object each in (IList<object>)value) Write(stream, each);
            }
            else WriteNumber(stream, 0xd3, (ulong)Convert.ToInt64(value), 8);
        }

        private static void WriteSized(Stream stream, byte type, byte[] data)
        {
            WriteNumber(stream, type, (ulong)data.Length, 4);
            stream.Write(data, 0, data.Length);
        }

        private static void WriteNumber(Stream stream, byte type, ulong value, int size)
        {
            stream.WriteByte(type);
            while (size-- > 0) stream.WriteByte((byte)(value >> 8 * size));
        }

        private static object Read(Stream stream)
        {
            int type = stream.ReadByte();
            if (type < 0x80) return (long)type;
            if (type < 0x90) return ReadMap(stream, type & 15);
            if (type < 0xa0) return ReadList(stream, type & 15);
            if (type < 0xc0) return ReadText(stream, type & 31);
            if (type >= 0xe0) return (long)(sbyte)type;
            switch (type)
            {
                case 0xc0: return null;
                case 0xc2: return false;
                case 0xc3: return true;
                case 0xc4: case 0xc5: case 0xc6: return ReadBytes(stream, Size(stream, type - 0xc4));
                case 0xcb: return BitConverter.Int64BitsToDouble((long)ReadNumber(stream, 8));
                case 0xcc: case 0xcd: case 0xce: case 0xcf:
                    return (long)ReadNumber(stream, 1 << type - 0xcc);
                case 0xd0: return (long)(sbyte)ReadNumber(stream, 1);
                case 0xd1: return (long)(short)ReadNumber(stream, 2);
                case 0xd2: return (long)(int)ReadNumber(stream, 4);
                case 0xd3: return (long)ReadNumber(stream, 8);
                case 0xd9: case 0xda: case 0xdb: return ReadText(stream, Size(stream, type - 0xd9));
                case 0xdc: case 0xdd: return ReadList(stream, Size(stream, type - 0xdb));
                case 0xde: case 0xdf: return ReadMap(stream, Size(stream, type - 0xdd));
            }
            throw new InvalidDataException("not plain MessagePack: " + type);
        }

        private static int Size(Stream stream, int power) { return (int)ReadNumber(stream, 1 << power); }

        private static ulong ReadNumber(Stream stream, int size)
        {
            ulong value = 0;
            while (size-- > 0) value = value << 8 | (byte)stream.ReadByte();
            return value;
        }

        private static byte[] ReadBytes(Stream stream, int size)
        {
            return new BinaryReader(stream).ReadBytes(size);
        }

        private static string ReadText(Stream stream, int size)
        {
            return Encoding.UTF8.GetString(ReadBytes(stream, size));
        }

        private static Map ReadMap(Stream stream, int size)
        {
            var map = new Map();
            while (size-- > 0) { var key = (string)Read(stream); map[key] = Read(stream); }
            return map;
        }

        private static List<object> ReadList(Stream stream, int size)
        {
            var list = new List<object>();
            while (size-- > 0) list.Add(Read(stream));
            return list;
        }
    }
}
