"""What a robot gets of its fleet: an exit that all of its robots taught, beside its own."""
