// As much of Unity as Client.cs uses, for a computer without it.
using System;

namespace UnityEngine
{
    public class MonoBehaviour { }

    [AttributeUsage(AttributeTargets.Field)]
    public sealed class SerializeField : Attribute { }

    public static class Debug
    {
        public static void LogException(Exception error) { Console.Error.WriteLine(error); }
    }
}
