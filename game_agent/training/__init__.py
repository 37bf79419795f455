"""The bundled model: made-up scenes, a small network, its training and its measured accuracy."""
