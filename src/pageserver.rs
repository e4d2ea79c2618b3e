//! What a compute asks of pageservers and the storage controller.
