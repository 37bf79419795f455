// Client.cs performs the script, driven as Unity drives a component.
using System.Collections.Generic;
using System.Reflection;

namespace GameAgent.Conformance
{
    public sealed class ClientPlayer : IPlayer
    {
        private readonly Client _client = new Client();

        private ClientPlayer(string endpoint)
        {
            Set("endpoint", endpoint);
            Set("silenceSeconds", 0.5f);
            Call("Awake");
        }

        public long Request(string op, Ask request)
        {
            return _client.Request(op, request.Fields, request.OnEnd, request.OnPiece);
        }

        public long Tick(Ask tick, IList<Ask> asks) { return _client.Tick(tick.Fields, asks, tick.OnEnd); }
        public void Turn() { Call("Update"); }
        public void Dispose() { Call("OnDestroy"); }

        private void Set(string field, object value)
        {
            typeof(Client).GetField(field, BindingFlags.Instance | BindingFlags.NonPublic)
                .SetValue(_client, value);
        }

        private void Call(string message)
        {
            typeof(Client).GetMethod(message, BindingFlags.Instance | BindingFlags.NonPublic)
                .Invoke(_client, null);
        }

        public static int Main(string[] arguments) { return Runner.Run(new ClientPlayer(arguments[0])); }
    }
}
