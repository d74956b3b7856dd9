"""Which sample comes when, and which part of it is seen: pure functions of (seed, epoch, sample), without torch."""
