# The gRPC door and the OTLP exporter. Included by CMakeLists.txt under MILLRACE_GRPC.
millrace_library(NAME server_grpc
  HDRS grpc_call.h grpc_generation.h grpc_hand_over.h grpc_health.h grpc_listener.h grpc_reflection.h grpc_server.h
       grpc_service.h grpc_status.h grpc_stream_rpc.h otlp_convert.h otlp_exporter.h proto_answer.h
       proto_convert.h proto_scan.h tcp_socket.h
  SRCS grpc_call.cc grpc_generation.cc grpc_hand_over.cc grpc_health.cc grpc_listener.cc grpc_reflection.cc
       grpc_server.cc grpc_service.cc grpc_status.cc grpc_stream_rpc.cc otlp_convert.cc
       otlp_exporter.cc proto_answer.cc proto_convert.cc proto_scan.cc tcp_socket.cc
  DEPS millrace_server_core millrace_proto gRPC::grpc++ absl::status absl::statusor
  PRIVATE_DEPS absl::strings)
add_library(millrace_grpc ALIAS millrace_server_grpc)


set(grpc_test_deps millrace_server_grpc millrace_server_testing)
millrace_test(NAME grpc_test SRCS grpc_test.cc DEPS ${grpc_test_deps})
millrace_test(NAME grpc_health_test SRCS grpc_health_test.cc DEPS ${grpc_test_deps})
millrace_test(NAME grpc_hostile_test SRCS grpc_hostile_test.cc
              DEPS ${grpc_test_deps} millrace_http_testing)
millrace_test(NAME grpc_listener_test SRCS grpc_listener_test.cc
              DEPS ${grpc_test_deps} millrace_http_testing)
millrace_test(NAME otlp_test SRCS otlp_test.cc DEPS ${grpc_test_deps})
millrace_test(NAME grpc_engine_test SRCS grpc_engine_test.cc
              DEPS ${grpc_test_deps} millrace_engine millrace_test_support)
