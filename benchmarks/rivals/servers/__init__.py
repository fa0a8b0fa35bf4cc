"""The contenders' servers, each as its own documentation has it. They run in environments of their own."""
