"""The servers' side: connections, load balancing, queues, health, starts on demand."""
