"""The services of Delivery Lab: each process is a folder, what processes share lies beside them."""
