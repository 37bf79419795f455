"""The wire protocol: MessagePack maps, their types, and the limits on them."""

VERSION = 1
