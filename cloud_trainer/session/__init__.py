"""One robot's training in the cloud: what its log asks for, and the network that comes of it. No broker."""
