"""What congestion a router without balancing would show, and the excess over it."""
