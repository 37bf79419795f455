// As much of MessagePack-CSharp as Client.cs uses: what it reads has the types that it has there.
using System;
using System.Collections.Generic;
using System.Linq;
using GameAgent.Conformance;
using MessagePack.Resolvers;

namespace MessagePack.Resolvers
{
    public sealed class PrimitiveObjectResolver
    {
        public static readonly PrimitiveObjectResolver Instance = new PrimitiveObjectResolver();
    }
}

namespace MessagePack
{
    public sealed class MessagePackSerializerOptions
    {
        public static readonly MessagePackSerializerOptions Standard = new MessagePackSerializerOptions();
        public MessagePackSerializerOptions WithResolver(PrimitiveObjectResolver resolver) { return this; }
    }

    public static class MessagePackSerializer
    {
        private static readonly SmallCodec Codec = new SmallCodec();

        public static byte[] Serialize<T>(T value, MessagePackSerializerOptions options = null)
        {
            return Codec.Pack((Dictionary<string, object>)(object)value);
        }

        public static T Deserialize<T>(byte[] buffer, MessagePackSerializerOptions options = null)
        {
            return (T)Primitive(Codec.Unpack(buffer));
        }

        private static object Primitive(object value)
        {
            var map = value as Dictionary<string, object>;
            if (map != null) return map.ToDictionary(each => (object)each.Key, each => Primitive(each.Value));
            var list = value as List<object>;
            if (list != null) return list.Select(Primitive).ToArray();
            return value is long ? Smallest((long)value) : value;
        }

        /// The type that a number is read as: the one that it was written as, at best the smallest.
        private static object Smallest(long value)
        {
            if (value >= 0)
            {
                if (value <= byte.MaxValue) return (byte)value;
                if (value <= ushort.MaxValue) return (ushort)value;
                if (value <= uint.MaxValue) return (uint)value;
                return (ulong)value;
            }
            if (value >= sbyte.MinValue) return (sbyte)value;
            if (value >= short.MinValue) return (short)value;
            return value >= int.MinValue ? (object)(int)value : value;
        }
    }
}
