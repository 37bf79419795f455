"""python tests/conformance -- RUNNER"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)
from conformance.play import main  # noqa: E402

main()
