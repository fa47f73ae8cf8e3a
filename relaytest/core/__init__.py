"""What the product knows: values in, values out. No I/O, no clock, no chance, no log."""
