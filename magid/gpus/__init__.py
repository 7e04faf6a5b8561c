"""GPUs: the devices that llama-server lists, and the physical GPUs behind them. Pure."""
