"""The fast twins on a CPU: products with stored weights in C++, read in the order of the cores.

Read tiles (the order in memory), native.cc (the kernels), build (compiled and registered),
native (offered).
"""
