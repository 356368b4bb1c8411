package ca

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/identity"
)

const (
	serviceName = "istio.v1.auth.IstioCertificateService"
	methodName  = "CreateCertificate"
	// Method is the full name of the one call of the Istio CA API.
	Method = "/" + serviceName + "/" + methodName
	// perMinute bounds the CSRs that are signed for one caller.
	perMinute = 30
	// maxCallers that are counted; beyond it the oldest minute is forgotten.
	maxCallers = 100_000
)

// Authenticate says who is behind a call, or a gRPC status error. A caller
// that has no single identity (ID is zero) gets no certificate.
type Authenticate func(ctx context.Context) (*identity.Caller, error)

// Service is the Istio CA API over an Authority.
type Service struct {
	authority *Authority
	who       Authenticate

	mu     sync.Mutex
	minute time.Time
	count  map[string]int // by Caller.Key, in this minute
}

// NewService makes the API; Register puts it on a server.
func NewService(a *Authority, who Authenticate) *Service {
	return &Service{authority: a, who: who, count: map[string]int{}}
}

// Register adds the service to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: methodName, Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := dynamicpb.NewMessage(requestType)
			if err := decode(in); err != nil {
				return nil, err
			}
			return s.create(ctx, in)
		}}},
		Metadata: "security/v1alpha1/ca.proto",
	}, s)
}

func (s *Service) create(ctx context.Context, in *dynamicpb.Message) (proto.Message, error) {
	caller, err := s.who(ctx)
	if err != nil {
		return nil, err
	}
	if caller.ID == (identity.ID{}) {
		return nil, status.Error(codes.PermissionDenied, "the caller stands for more than one identity; use a join token")
	}
	if err := refuseImpersonation(in); err != nil {
		return nil, err
	}
	if !s.allow(caller.Key()) {
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d certificate requests a minute", perMinute)
	}
	secs := in.Get(requestType.Fields().ByName("validity_duration")).Int()
	if secs > int64(math.MaxInt64/time.Second) {
		secs = int64(math.MaxInt64 / time.Second)
	}
	csr := in.Get(requestType.Fields().ByName("csr")).String()
	chain, err := s.authority.Sign([]byte(csr), caller.ID, time.Duration(secs)*time.Second)
	switch {
	case errors.Is(err, ErrBadRequest):
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case err != nil:
		return nil, status.Error(codes.Internal, err.Error())
	}
	out := dynamicpb.NewMessage(responseType)
	list := out.Mutable(responseType.Fields().ByName("cert_chain")).List()
	for _, p := range chain.PEM {
		list.Append(protoreflect.ValueOfString(p))
	}
	return out, nil
}

// refuseImpersonation denies node proxies that ask in the name of a pod:
// nothing here could check the claim yet.
func refuseImpersonation(in *dynamicpb.Message) error {
	b, err := proto.Marshal(in.Get(requestType.Fields().ByName("metadata")).Message().Interface())
	if err != nil {
		return status.Error(codes.InvalidArgument, "metadata")
	}
	var m structpb.Struct
	if err := proto.Unmarshal(b, &m); err != nil {
		return status.Error(codes.InvalidArgument, "metadata")
	}
	if m.Fields["ImpersonatedIdentity"].GetStringValue() != "" {
		return status.Error(codes.PermissionDenied, "impersonation is not allowed")
	}
	return nil
}

func (s *Service) allow(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.authority.now(); now.Sub(s.minute) >= time.Minute || now.Before(s.minute) || len(s.count) >= maxCallers {
		s.minute = now
		clear(s.count)
	}
	s.count[key]++
	return s.count[key] <= perMinute
}

// The messages of Istio's security/v1alpha1/ca.proto, described here by hand
// so that no generated code is needed for three fields.
var requestType, responseType = describe()

func describe() (req, resp protoreflect.MessageDescriptor) {
	field := func(name string, n int32, l descriptorpb.FieldDescriptorProto_Label, t descriptorpb.FieldDescriptorProto_Type, typeName string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Label: &l, Type: &t}
		if typeName != "" {
			f.TypeName = &typeName
		}
		return f
	}
	one, many := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	text, number, msg := descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_INT64, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	file := &descriptorpb.FileDescriptorProto{
		Name:       proto.String("security/v1alpha1/ca.proto"),
		Package:    proto.String("istio.v1.auth"),
		Syntax:     proto.String("proto3"),
		Dependency: []string{"google/protobuf/struct.proto"},
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("IstioCertificateRequest"), Field: []*descriptorpb.FieldDescriptorProto{
				field("csr", 1, one, text, ""),
				field("validity_duration", 3, one, number, ""),
				field("metadata", 4, one, msg, ".google.protobuf.Struct"),
			}},
			{Name: proto.String("IstioCertificateResponse"), Field: []*descriptorpb.FieldDescriptorProto{
				field("cert_chain", 1, many, text, ""),
			}},
		},
	}
	d, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		panic("BUG: descriptor of the CA API: " + err.Error())
	}
	return d.Messages().ByName("IstioCertificateRequest"), d.Messages().ByName("IstioCertificateResponse")
}
