"""Every weight trained."""

COUNT = 440_401_920  # the linear layers of 28 transformer layers
