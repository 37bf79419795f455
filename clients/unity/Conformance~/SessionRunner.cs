// Session.cs alone performs the script, over libzmq, with keys or without.
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;

namespace GameAgent.Conformance
{
    public sealed class SessionPlayer : IPlayer
    {
        private const double SilenceS = 0.5;
        private readonly Session _session;

        private SessionPlayer(string endpoint, string[] keys)
        {
            var clock = Stopwatch.StartNew();
            _session = new Session(() => new LibzmqSocket(endpoint, keys), new SmallCodec(),
                () => clock.Elapsed.TotalSeconds, SilenceS, "conformance");
        }

        public long Request(string op, Ask request)
        {
            long id = _session.NewId();
            _session.Request(id, op, request.Fields, request.OnEnd, request.OnPiece);
            return id;
        }

        public long Tick(Ask tick, IList<Ask> asks)
        {
            long id = _session.NewId();
            foreach (Ask ask in asks) ask.Id = _session.NewId();
            _session.Tick(id, tick.Fields, asks, tick.OnEnd);
            return id;
        }

        public void Turn() { _session.Poll(); }
        public void Dispose() { _session.Dispose(); }

        public static int Main(string[] arguments)
        {
            return Runner.Run(new SessionPlayer(arguments[0], arguments.Skip(1).ToArray()));
        }
    }
}
